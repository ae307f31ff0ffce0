package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// sendFlags is what the command line of send says.
type sendFlags struct {
	to, skill, input                string
	sender, recipient, audience     string
	key, token, delegation          string
	conversation, parentTask, trace string
	envelope                        string
	webSocket, insecure, noWait     bool
	timeout                         time.Duration
	repeat, parallel                int
}

const (
	defaultSender   = "urn:asap:agent:asap-cli"
	maxSendRepeat   = 10_000_000
	maxSendParallel = 10_000
)

func (a *app) sendCommand() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send --to URL --skill SKILL [--input JSON]",
		Short: "Ask an agent to do a task",
		Long: `Sends a task to any agent that speaks ASAP, waits until it has ended, and prints
what it came to. With --repeat it sends the task many times, each as a task of
its own, and prints how that went.

Exit status: 0 the task completed, or waits for input; 1 the agent refused it,
or it failed; 3 the agent cannot be reached, or its answer makes no sense.`,
		Example: `  asap send --to http://127.0.0.1:8080 --skill echo --input '{"message":"hi"}'
  asap send --to https://agent.example.com --skill summarise --input @text.json --key me.key --sender urn:asap:agent:me
  asap send --to http://127.0.0.1:8080 --skill echo --repeat 1000 --parallel 64`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error { return a.send(cmd.Context(), &f) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "URL of the agent (default: ASAP_NODE)")
	flags.StringVar(&f.skill, "skill", "", "id of the skill (required)")
	flags.StringVar(&f.input, "input", "{}", "input of the task: a JSON object, @FILE, or - for standard input")
	flags.StringVar(&f.sender, "sender", defaultSender, "URN to send as")
	flags.StringVar(&f.recipient, "recipient", "", "URN to send to (default: that of the manifest at the URL)")
	flags.StringVarP(&f.key, "key", "k", "", "private key (PEM) of the sender, to sign bearer tokens with")
	flags.StringVar(&f.audience, "audience", "", "URN of the node that the bearer token is for (default: the recipient)")
	flags.StringVar(&f.token, "token", "", "bearer token to present as it is, or @FILE")
	flags.StringVar(&f.delegation, "delegation", "", "delegation token to act on, or @FILE")
	flags.StringVar(&f.conversation, "conversation", "", "conversation the task belongs to (default: one of its own)")
	flags.StringVar(&f.parentTask, "parent-task", "", "task this one is a part of")
	flags.StringVar(&f.trace, "trace-id", "", "trace the task belongs to")
	flags.StringVar(&f.envelope, "envelope-id", "", "id of the envelope; the same id again gives the first answer again")
	flags.BoolVar(&f.webSocket, "ws", false, "send over a WebSocket")
	flags.BoolVar(&f.insecure, "insecure", false, "allow plain http to hosts other than this one")
	flags.BoolVar(&f.noWait, "no-wait", false, "do not wait for a task that takes longer: print its id")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "longest time for one task")
	flags.IntVar(&f.repeat, "repeat", 1, "how many tasks to send")
	flags.IntVar(&f.parallel, "parallel", 1, "how many of them at a time")
	mustRequire(cmd, "skill")
	return cmd
}

// taskSender is a connection to an agent, over either transport.
type taskSender interface {
	Task(ctx context.Context, t client.TaskCall) (*client.TaskResult, error)
	Wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*client.TaskResult, error)
}

func (a *app) send(ctx context.Context, f *sendFlags) error {
	if f.to == "" {
		f.to = a.getenv("ASAP_NODE")
	}
	switch {
	case f.to == "":
		return usageErrorf("--to is missing, and ASAP_NODE is not set")
	case f.repeat < 1 || f.repeat > maxSendRepeat:
		return usageErrorf("--repeat must be between 1 and %d", maxSendRepeat)
	case f.parallel < 1 || f.parallel > maxSendParallel:
		return usageErrorf("--parallel must be between 1 and %d", maxSendParallel)
	case f.timeout <= 0:
		return usageErrorf("--timeout must be positive")
	case f.envelope != "" && f.repeat > 1:
		return usageErrorf("--envelope-id names one task: it does not go with --repeat")
	case f.key != "" && f.token != "":
		return usageErrorf("--key and --token exclude each other")
	}
	input, err := a.valueOrFile("Input file", f.input)
	if err != nil {
		return err
	}
	call := client.TaskCall{
		Skill: f.skill, Input: jsontext.Value(input),
		ConversationID: asap.ConversationID(f.conversation), ParentTaskID: asap.TaskID(f.parentTask),
		TraceID: f.trace, EnvelopeID: asap.EnvelopeID(f.envelope),
	}
	if call.Input.Kind() != '{' || !call.Input.IsValid() {
		return badValuef("Input is not a JSON object")
	}
	opts, err := a.sendOptions(ctx, f, &call)
	if err != nil {
		return err
	}
	target, closeTarget, err := dialAgent(ctx, f, opts)
	if err != nil {
		return err
	}
	defer closeTarget()
	if f.repeat > 1 {
		return a.sendMany(ctx, f, target, call)
	}
	return a.sendOne(ctx, f, target, call)
}

// valueOrFile returns value itself, or the content of the file it names as
// @FILE, or standard input for "-".
func (a *app) valueOrFile(what, value string) ([]byte, error) {
	switch name, isFile := strings.CutPrefix(value, "@"); {
	case value == "-":
		return a.readInput(what, "-")
	case isFile:
		return a.readInput(what, name)
	}
	return []byte(value), nil
}

// sendOptions makes the options of the connection, and finds out the recipient
// where the command line does not name it.
func (a *app) sendOptions(ctx context.Context, f *sendFlags, call *client.TaskCall) ([]client.Option, error) {
	sender, err := asap.ParseAgentURN(f.sender)
	if err != nil {
		return nil, badValuef("Sender: %w", err)
	}
	opts := []client.Option{
		client.WithSender(sender),
		client.WithTimeout(f.timeout),
		client.WithAnswerTimeout(f.timeout),
		client.WithMaxConnections(max(f.parallel, 1)),
		client.WithMaxOutstanding(max(f.parallel, 1)),
		client.WithUserAgent("asap-cli/" + asap.Version),
	}
	if f.insecure {
		opts = append(opts, client.WithInsecure())
	}
	if f.delegation != "" {
		token, err := a.valueOrFile("Delegation file", f.delegation)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithDelegation(strings.TrimSpace(string(token))))
	}
	if f.token != "" {
		token, err := a.valueOrFile("Token file", f.token)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithTokenSource(client.StaticToken(strings.TrimSpace(string(token)))))
	}
	if call.Recipient, err = recipientOf(ctx, f, opts); err != nil {
		return nil, err
	}
	if f.key == "" {
		return opts, nil
	}
	if f.sender == defaultSender {
		return nil, usageErrorf("--key needs --sender: the URN of the agent whose key it is")
	}
	key, err := a.readPrivateKey("Key file", f.key)
	if err != nil {
		return nil, err
	}
	audience := call.Recipient
	if f.audience != "" {
		audience = asap.AgentURN(f.audience)
	}
	tokens, err := client.NewKeyTokens(key, sender, audience, 0)
	if err != nil {
		return nil, badValuef("%w", err)
	}
	return append(opts, client.WithTokenSource(tokens)), nil
}

// recipientOf returns the URN to send to: the one given, or that of the manifest.
func recipientOf(ctx context.Context, f *sendFlags, opts []client.Option) (asap.AgentURN, error) {
	if f.recipient != "" {
		urn, err := asap.ParseAgentURN(f.recipient)
		if err != nil {
			return "", badValuef("Recipient: %w", err)
		}
		return urn, nil
	}
	d, err := client.NewDiscovery(opts...)
	if err != nil {
		return "", badValuef("%w", err)
	}
	defer d.Close()
	found, err := d.Discover(ctx, f.to)
	var answered *client.RemoteError
	var unreached *client.TransportError
	switch {
	case err == nil:
		return found.Manifest.ID, nil
	case errors.As(err, &answered), errors.As(err, &unreached):
		return "", stateErrorf("who is at %s? %s (--recipient URN skips the question)", f.to, plain(err.Error()))
	}
	return "", badValuef("%w", err)
}

// dialAgent returns the connection, and what closes it.
func dialAgent(ctx context.Context, f *sendFlags, opts []client.Option) (taskSender, func(), error) {
	if !f.webSocket {
		c, err := client.New(f.to, opts...)
		if err != nil {
			return nil, nil, badValuef("%w", err)
		}
		return c, c.Close, nil
	}
	s, err := client.NewSocket(f.to, opts...)
	if err != nil {
		return nil, nil, badValuef("%w", err)
	}
	if err := s.Connect(ctx); err != nil {
		return nil, nil, sendFailure(err, "")
	}
	return s, func() { _ = s.Close() }, nil // Close reports nothing
}

// oneTask sends a task and, unless told not to, waits for its end.
func oneTask(ctx context.Context, f *sendFlags, target taskSender, call client.TaskCall) (*client.TaskResult, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	r, err := target.Task(ctx, call)
	if err != nil || f.noWait || r.Status.Terminal() || r.Status == asap.InputRequired {
		return r, err
	}
	return target.Wait(ctx, call.Recipient, r.TaskID)
}

// sentTask is the answer of send.
type sentTask struct {
	TaskID     asap.TaskID     `json:"task_id"`
	Status     asap.TaskStatus `json:"status"`
	Result     jsontext.Value  `json:"result"`
	Metrics    jsontext.Value  `json:"metrics"`
	Receipt    *sentReceipt    `json:"receipt"`
	EnvelopeID asap.EnvelopeID `json:"envelope_id"`
	LatencyMS  int64           `json:"latency_ms"`
}

type sentReceipt struct {
	Seq     int64  `json:"seq"`
	EntryID string `json:"id"`
	Hash    string `json:"hash"`
}

func (a *app) sendOne(ctx context.Context, f *sendFlags, target taskSender, call client.TaskCall) error {
	if call.EnvelopeID == "" {
		call.EnvelopeID = asap.NewIDSource().NewEnvelopeID(time.Now())
	}
	start := time.Now()
	r, err := oneTask(ctx, f, target, call)
	if err != nil {
		return sendFailure(err, call.EnvelopeID)
	}
	sent := sentTask{
		TaskID: r.TaskID, Status: r.Status, Result: r.Result, Metrics: r.Metrics,
		EnvelopeID: call.EnvelopeID, LatencyMS: time.Since(start).Milliseconds(),
	}
	if r.Receipt != nil {
		sent.Receipt = &sentReceipt{r.Receipt.Seq, r.Receipt.EntryID, hex.EncodeToString(r.Receipt.Hash[:])}
	}
	if err := a.answer(sent, sent.text); err != nil {
		return err
	}
	if r.Status == asap.Failed || r.Status == asap.Cancelled {
		return quietFailure(exitRefused)
	}
	return nil
}

// text writes the answer for people.
func (s sentTask) text(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s %s in %d ms\n", s.Status, plain(string(s.TaskID)), s.LatencyMS); err != nil {
		return err
	}
	if s.Receipt != nil {
		if _, err := fmt.Fprintf(w, "audit entry %d %s sha256:%s\n", s.Receipt.Seq, plain(s.Receipt.EntryID), s.Receipt.Hash); err != nil {
			return err
		}
	}
	if s.Result == nil {
		return nil
	}
	result := s.Result.Clone()
	if err := result.Indent(jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, plainLines(string(result)))
	return err
}

// sendFailure says why there is no answer: refused is status 1, unreachable 3.
func sendFailure(err error, envelope asap.EnvelopeID) error {
	var refused *client.RemoteError
	var unreached *client.TransportError
	switch {
	case errors.As(err, &refused):
		text := plain(refused.Error())
		for _, info := range asap.CodeTable() {
			if info.Code == refused.DataCode && !strings.Contains(text, info.Sentence) {
				text += ": " + info.Sentence
			}
		}
		if refused.EarlierUnanswered {
			text += mayBeDone(envelope)
		}
		return refusedErrorf("%s", text)
	case errors.As(err, &unreached):
		text := plain(unreached.Error())
		if unreached.MayHaveExecuted {
			text += mayBeDone(envelope)
		}
		return stateErrorf("%s", text)
	}
	return err
}

func mayBeDone(envelope asap.EnvelopeID) string {
	return fmt.Sprintf(" - it may have been done all the same; --envelope-id %s asks again without doing it twice", envelope)
}

// plain makes text from outside safe to show: nothing in it moves the cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// plainLines is plain for text of several lines.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n")
}
