package httpapi

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// maxBatch is how many reports one batch may have.
const maxBatch = 10_000

// bodyTimeout is how long a body may take to arrive.
const bodyTimeout = 60 * time.Second

// freeRoom is how much of each body needs no room.
const freeRoom = 16 << 10

// errNoRoom says that other bodies hold all the memory there is for them.
var errNoRoom = fmt.Errorf("%w: no room for the body", ledger.ErrOverloaded)

// readAll reads the whole body, within its limit and the room there is. What it
// holds is given back when the call is over.
func (a *API) readAll(c *call) ([]byte, error) {
	body := http.MaxBytesReader(c.w, c.r.Body, a.cfg.MaxBodyBytes)
	b := make([]byte, 0, 512)
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) < cap(b) {
			continue
		}
		size := min(2*int64(cap(b)), a.cfg.MaxBodyBytes+1)
		if more := size - freeRoom - c.held; a.cfg.Room != nil && more > 0 {
			if !a.cfg.Room.Take(more) {
				return nil, errNoRoom
			}
			c.held += more
		}
		grown := make([]byte, len(b), size)
		copy(grown, b)
		b = grown
	}
}

// giveBack ends what the body of a call holds.
func (a *API) giveBack(c *call) {
	if c.held > 0 {
		a.cfg.Room.Give(c.held)
		c.held = 0
	}
}

// maxIssues bounds what one answer lists.
const maxIssues = 100

// body reads the whole body as one JSON value: strict, without duplicate
// members, whatever its content type says, as v1.3.0 does not look at that.
func (a *API) body(c *call) (jsontext.Value, error) {
	if e := c.r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, refusal(asap.CodeUnsupportedEncoding)
	}
	// A body has its own time limit: one for the whole connection would also cut
	// off long answers.
	timed := http.NewResponseController(c.w)
	_ = timed.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every writer can
	defer func() { _ = timed.SetReadDeadline(time.Time{}) }()
	b, err := a.readAll(c)
	if err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) || errors.Is(err, errNoRoom) {
			return nil, err
		}
		return nil, problemOf(asap.CodeParseError, "The body did not arrive whole.")
	}
	d := jsontext.NewDecoder(bytes.NewReader(b))
	if _, err = d.ReadValue(); err == nil {
		if _, err = d.ReadToken(); errors.Is(err, io.EOF) {
			return bytes.Trim(b, " \t\r\n"), nil
		}
		if err == nil {
			err = errors.New("there is data after the value")
		}
	}
	return nil, problemOf(asap.CodeParseError, fmt.Sprintf("The body is not valid JSON: %s.", strings.TrimPrefix(err.Error(), "jsontext: ")))
}

// report reads one report and checks that the caller may make it: the operator,
// the agent itself, or whoever brings it signed with the agent's registered key.
func (a *API) report(c *call, v jsontext.Value, key string) (ledger.Report, error) {
	usage, signature, publicKey, signed, err := metering.OpenReport(v)
	if err != nil {
		return ledger.Report{}, err
	}
	r, err := a.cfg.Bounds.ParseReport(usage, a.cfg.Now())
	if err != nil {
		return ledger.Report{}, err
	}
	switch {
	case signed:
		signer := func(key ed25519.PublicKey) bool { return key.Equal(ed25519.PublicKey(publicKey)) }
		if a.cfg.AgentKeys == nil || !slices.ContainsFunc(a.cfg.AgentKeys(r.Agent), signer) {
			return ledger.Report{}, problemOf(asap.CodeForbidden, "The report is not signed with the registered key of its agent.")
		}
	case c.caller.Role == Anonymous:
		return ledger.Report{}, refusal(asap.CodeUnauthenticated)
	case c.caller.Role == AgentRole && c.caller.Agent != r.Agent:
		return ledger.Report{}, problemOf(asap.CodeForbidden, "An agent may report its own usage only.")
	}
	if key != "" && r.HasDerivedID() {
		r.ID = metering.IDFromKey(string(r.Agent), key)
	}
	digest := r.ContentDigest()
	r.Signature, r.PublicKey = signature, publicKey
	return ledger.Report{Record: r, Digest: digest}, nil
}

func idempotencyKey(c *call) (string, error) {
	key := c.r.Header.Get("Idempotency-Key")
	if len(key) > metering.MaxText {
		return "", refuse(asap.CodeInvalidFilter, "Idempotency-Key", "must have at most %d characters", metering.MaxText)
	}
	return key, nil
}

func (a *API) record(c *call) error {
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	v, err := a.body(c)
	if err != nil {
		return err
	}
	correction, ok, err := metering.ParseCorrection(v)
	if ok {
		return a.correct(c, correction, err)
	}
	report, err := a.report(c, v, key)
	if err != nil {
		return err
	}
	done, err := a.cfg.Ledger.Record(c.ctx(), []ledger.Report{report}, ledger.PerItem)
	if err == nil {
		err = done[0].Err
	}
	if err != nil {
		return err
	}
	return writeRecorded(c.w, &done[0])
}

// correct voids or adjusts a record, for the operator.
func (a *API) correct(c *call, correction metering.Correction, err error) error {
	switch {
	case c.caller.Role == Anonymous:
		return refusal(asap.CodeUnauthenticated)
	case c.caller.Role != Operator:
		return refusal(asap.CodeForbidden)
	case err != nil:
		return err
	}
	done, err := a.cfg.Ledger.Correct(c.ctx(), ledger.Correction{Correction: correction})
	if err != nil {
		return err
	}
	return writeRecorded(c.w, &done)
}

// writeRecorded answers 201, or 200 with the first receipt to a repetition.
func writeRecorded(w http.ResponseWriter, done *ledger.Recorded) error {
	status := http.StatusCreated
	if done.Duplicate {
		status = http.StatusOK
	}
	return writeJSON(w, status, recordedAnswer{Status: "recorded", TaskID: string(done.Record.TaskID), RecordedItem: itemOf(done)})
}

func itemOf(done *ledger.Recorded) RecordedItem {
	item := RecordedItem{
		ID: done.Record.ID, Duplicate: done.Duplicate, Sequence: done.Record.Sequence, CostStatus: "unpriced",
		Receipt: receiptAnswer{Seq: done.Receipt.Seq, ID: done.Receipt.EntryID, Hash: hex.EncodeToString(done.Receipt.Hash[:])},
	}
	if cost := done.Record.CostNanoUSD; cost != nil {
		item.CostUSD, item.CostStatus = new(cost.String()), "priced"
	}
	return item
}

func (a *API) batch(c *call) error {
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	name, err := c.params.text("mode")
	if err != nil {
		return err
	}
	mode := ledger.Atomic
	switch name {
	case "", "atomic":
	case "per_item":
		mode = ledger.PerItem
	default:
		return refuse(asap.CodeInvalidFilter, "mode", "must be atomic or per_item")
	}
	v, err := a.body(c)
	if err != nil {
		return err
	}
	events, err := eventsOf(v)
	if err != nil {
		return err
	}
	reports := make([]ledger.Report, 0, len(events))
	at := make([]int, 0, len(events)) // index of each report among the events
	refused := map[int]error{}
	for i, event := range events {
		itemKey := ""
		if key != "" {
			itemKey = key + "/" + strconv.Itoa(i)
		}
		report, err := a.report(c, event, itemKey)
		if err != nil {
			refused[i] = err
			continue
		}
		reports, at = append(reports, report), append(at, i)
	}
	if mode == ledger.Atomic {
		if err := batchError(len(events), refused); err != nil {
			return err
		}
		done, err := a.cfg.Ledger.Record(c.ctx(), reports, mode)
		if err != nil {
			return err
		}
		return writeBatch(c.w, done)
	}
	var done []ledger.Recorded
	if len(reports) > 0 {
		if done, err = a.cfg.Ledger.Record(c.ctx(), reports, mode); err != nil {
			return err
		}
	}
	return writeItems(c.w, len(events), at, done, refused)
}

// eventsOf reads {"events": […]}.
func eventsOf(v jsontext.Value) ([]jsontext.Value, error) {
	invalid := func(location, kind, message string) error {
		p := problemOf(asap.CodeRecordInvalid, strings.TrimPrefix(location+": "+message, ": "))
		p.Errors = []problemItem{{Location: location, Type: kind, Message: message}}
		return p
	}
	if v.Kind() != '{' {
		return nil, invalid("", "model_type", "must be an object with the member events")
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(v, &members); err != nil {
		return nil, invalid("", "model_type", "must be an object with the member events")
	}
	list, ok := members["events"]
	if !ok {
		return nil, invalid("events", "missing", "is required")
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if name != "events" {
			return nil, invalid(name, "extra_forbidden", "is not a member of a batch")
		}
	}
	var events []jsontext.Value
	switch {
	case list.Kind() != '[' || json.Unmarshal(list, &events) != nil:
		return nil, invalid("events", "list_type", "must be an array")
	case len(events) == 0:
		return nil, invalid("events", "too_short", "must have at least one item")
	case len(events) > maxBatch:
		return nil, refuse(asap.CodeBatchTooLarge, "events", "must have at most %d items, not %d", maxBatch, len(events))
	}
	return events, nil
}

// batchError says why a batch is refused as a whole, naming the items: the first
// refused one decides the code.
func batchError(n int, refused map[int]error) error {
	var first *problem
	for i := range n {
		err := refused[i]
		if err == nil {
			continue
		}
		p, where := asProblem(err), "events."+strconv.Itoa(i)
		if p.Code == asap.CodeUnauthenticated {
			return p
		}
		if first == nil {
			first = problemOf(p.Code, where+": "+p.Detail)
			first.Status, first.Title = p.Status, p.Title
		}
		if len(p.Errors) == 0 {
			p.Errors = []problemItem{{Message: p.Detail}}
		}
		for _, item := range p.Errors {
			if len(first.Errors) < maxIssues {
				item.Location = join(where, item.Location)
				first.Errors = append(first.Errors, item)
			}
		}
	}
	if first == nil {
		return nil
	}
	return first
}

func writeBatch(w http.ResponseWriter, done []ledger.Recorded) error {
	answer := batchAnswer{Status: "recorded", Count: len(done), TaskIDs: make([]string, len(done)), Receipts: make([]RecordedItem, len(done))}
	for i := range done {
		answer.TaskIDs[i], answer.Receipts[i] = string(done[i].Record.TaskID), itemOf(&done[i])
		if done[i].Duplicate {
			answer.Duplicates++
		}
	}
	status := http.StatusCreated
	if answer.Duplicates == len(done) {
		status = http.StatusOK
	}
	return writeJSON(w, status, answer)
}

// writeItems answers item by item: 201 if all were taken, else 200 with status
// "partial" or "refused".
func writeItems(w http.ResponseWriter, n int, at []int, done []ledger.Recorded, refused map[int]error) error {
	answer := batchAnswer{TaskIDs: []string{}, Results: make([]batchItem, n)}
	for i, err := range refused {
		answer.Results[i] = batchItem{Index: i, Status: "refused", Error: asProblem(err)}
	}
	for k := range done {
		i := at[k]
		if err := done[k].Err; err != nil {
			answer.Results[i] = batchItem{Index: i, Status: "refused", Error: asProblem(err)}
			continue
		}
		item := itemOf(&done[k])
		answer.Results[i] = batchItem{Index: i, Status: "recorded", TaskID: new(string(done[k].Record.TaskID)), Recorded: &item}
		answer.Count++
		answer.TaskIDs = append(answer.TaskIDs, string(done[k].Record.TaskID))
		if done[k].Duplicate {
			answer.Duplicates++
		}
	}
	answer.Refused = n - answer.Count
	status := http.StatusOK
	switch answer.Count {
	case n:
		answer.Status, status = "recorded", http.StatusCreated
	case 0:
		answer.Status = "refused"
	default:
		answer.Status = "partial"
	}
	return writeJSON(w, status, answer)
}

func (a *API) validate(c *call) error {
	v, err := a.body(c)
	if err != nil {
		return err
	}
	report, err := a.report(c, v, "")
	if err != nil {
		p := asProblem(err)
		if p.Status >= http.StatusInternalServerError {
			return err
		}
		return writeJSON(c.w, http.StatusOK, validateAnswer{Error: &p.Detail, Code: &p.Code, Errors: p.Errors})
	}
	r := &report.Record
	agent, consumer := string(r.Agent), string(r.Consumer)
	return writeJSON(c.w, http.StatusOK, validateAnswer{
		Valid: true, ID: &r.ID, TaskID: new(string(r.TaskID)), Agent: &agent, AgentID: &agent, Consumer: &consumer, ConsumerID: &consumer,
	})
}

// purge removes what is older than the retention. Like v1.3.0 it reads no body.
func (a *API) purge(c *call) error {
	keep := a.cfg.Retention()
	if keep <= 0 {
		return writeJSON(c.w, http.StatusOK, purgeAnswer{Status: "purged"})
	}
	before := a.cfg.Now().Add(-keep).UTC().Truncate(time.Second)
	done, err := a.cfg.Ledger.Purge(c.ctx(), before)
	if err != nil {
		return err
	}
	answer := purgeAnswer{Status: "purged", Removed: done.Records, Before: new(asap.FormatTimestamp(done.Before.UTC()))}
	if done.Receipt.EntryID != "" {
		answer.Receipt = &receiptAnswer{Seq: done.Receipt.Seq, ID: done.Receipt.EntryID, Hash: hex.EncodeToString(done.Receipt.Hash[:])}
	}
	return writeJSON(c.w, http.StatusOK, answer)
}
