package main

import (
	"errors"
	"fmt"
)

// The exit statuses of every command. They are a promise to scripts.
const (
	exitDone    = 0 // done, and every check it made passed
	exitRefused = 1 // refused, or a check failed
	exitUsage   = 2 // the command line, or a file named on it, is wrong
	exitState   = 3 // a node, a store or a data directory cannot be reached or read
)

// statusError is an error with the exit status it leads to. Errors without one
// lead to exitRefused when a command's own work returns them, and to exitUsage
// when they come from reading the command line.
type statusError struct {
	status int
	err    error
	quiet  bool // the command has already said everything on standard output
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// usageErrorf reports a command line that cannot be understood.
func usageErrorf(format string, args ...any) error {
	return &statusError{status: exitUsage, err: fmt.Errorf(format, args...)}
}

// badValuef reports an argument, or an input file it names, that cannot be used.
func badValuef(format string, args ...any) error {
	return usageErrorf("Invalid value: "+format, args...)
}

// refusedErrorf reports a refusal or a failed check.
func refusedErrorf(format string, args ...any) error {
	return &statusError{status: exitRefused, err: fmt.Errorf(format, args...)}
}

// stateErrorf reports a node or a store that cannot be reached or read.
func stateErrorf(format string, args ...any) error {
	return &statusError{status: exitState, err: fmt.Errorf(format, args...)}
}

// quietFailure ends a command with status and without a message.
func quietFailure(status int) error {
	return &statusError{status: status, err: errors.New("exit status"), quiet: true}
}
