package node

import "errors"

// ErrInUse reports a data directory that another process serves from.
var ErrInUse = errors.New("data directory in use")
