package httpapi

import (
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// maxSeq is the largest seq or size that a parameter can name.
const maxSeq = 1<<53 - 1

var (
	proofFlagParam   = parameter{name: "proof", in: "query", kind: "string", enum: yesOrNo(), doc: "add the inclusion proof"}
	auditFormatParam = parameter{name: "format", in: "query", kind: "string", enum: []any{"json", "jsonl", "ndjson", "csv"}, doc: "json if left out; csv is for looking at, not for verifying"}
)

// yesOrNo are the values that query.yes reads.
func yesOrNo() []any { return []any{"1", "0", "true", "false"} }

func verifyParams() []parameter {
	return []parameter{
		{name: "from", in: "query", kind: "integer", most: maxSeq, doc: "seq of the first entry to check"},
		{name: "to", in: "query", kind: "integer", most: maxSeq, doc: "seq after the last entry to check; it is moved up to the next checkpoint"},
		{name: "checkpoint", in: "query", kind: "string", doc: "a signed note seen earlier, which the log must continue; may be repeated"},
		{name: "vkey", in: "query", kind: "string", doc: "verifier key to trust instead of the node's own; none trusts nobody; may be repeated"},
		{name: "require", in: "query", kind: "string", enum: []any{"none", "chain", "sealed", "consistent"}, doc: "the least assurance that is valid; sealed if there is a key"},
		{name: "min_size", in: "query", kind: "integer", most: maxSeq, doc: "the least number of entries"},
		{name: "max_unsealed", in: "query", kind: "integer", most: maxSeq, doc: "the longest unsealed tail"},
		{name: "receipt", in: "query", kind: "string", doc: `a receipt {"seq","id","hash"} that must be in the log`},
		{name: "reconcile", in: "query", kind: "string", enum: yesOrNo(), doc: "compare with usage records, totals and budgets"},
	}
}

func inclusionParams() []parameter {
	return []parameter{
		{name: "seq", in: "query", kind: "integer", most: maxSeq, doc: "position of the entry"},
		{name: "id", in: "query", kind: "string", doc: "id of the entry, instead of seq"},
		{name: "size", in: "query", kind: "integer", least: 1, most: maxSeq, doc: "entries of the tree; that of the newest checkpoint if left out"},
	}
}

func consistencyParams() []parameter {
	return []parameter{
		{name: "from", in: "query", kind: "integer", most: maxSeq, required: true, doc: "the smaller size"},
		{name: "to", in: "query", kind: "integer", most: maxSeq, doc: "the larger size; that of the newest checkpoint if left out"},
	}
}

// The types below document answers that are written elsewhere or built here.
type verdictAnswer struct {
	Valid          bool            `json:"valid"`
	Assurance      string          `json:"assurance" enum:"none,chain,sealed,consistent,witnessed"`
	FirstBadSeq    *int64          `json:"first_bad_seq"`
	Reason         *string         `json:"reason"`
	EntriesChecked int64           `json:"entries_checked"`
	Size           int64           `json:"size"`
	MinIndex       int64           `json:"min_index"`
	SealedThrough  int64           `json:"sealed_through"`
	UnsealedTail   int64           `json:"unsealed_tail"`
	HeadHash       string          `json:"head_hash"`
	RootHash       string          `json:"root_hash"`
	Guards         guardsAnswer    `json:"guards"`
	Reconciliation *map[string]any `json:"reconciliation"`
	Message        string          `json:"message,omitempty"`
}

type guardsAnswer struct {
	Missing []string `json:"missing"`
}

type auditExport struct {
	Origin       string         `json:"origin"`
	VKey         string         `json:"vkey"`
	Size         int64          `json:"size"`
	MinIndex     int64          `json:"min_index"`
	PreviousHash string         `json:"previous_hash"`
	Entries      []AuditRecord  `json:"entries"`
	Checkpoints  []string       `json:"checkpoints"`
	Trailer      map[string]any `json:"trailer"`
}

type checkpointAnswer struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`
	Root       string `json:"root" doc:"base64"`
	VKey       string `json:"vkey" doc:"the key that the node says is its own; get it some other way to trust it"`
	Checkpoint string `json:"checkpoint" doc:"the signed note"`
}

type inclusionAnswer struct {
	Seq        int64    `json:"seq"`
	Size       int64    `json:"size"`
	Hash       string   `json:"hash" doc:"of the entry, hexadecimal; the leaf is its RFC 6962 leaf hash"`
	Root       string   `json:"root" doc:"base64"`
	Proof      []string `json:"proof" doc:"RFC 6962 inclusion proof, base64"`
	Checkpoint *string  `json:"checkpoint" doc:"signed note of this size, if there is one"`
}

type consistencyAnswer struct {
	From           int64    `json:"from"`
	To             int64    `json:"to"`
	FromRoot       string   `json:"from_root"`
	ToRoot         string   `json:"to_root"`
	Proof          []string `json:"proof" doc:"RFC 6962 consistency proof, base64"`
	FromCheckpoint *string  `json:"from_checkpoint"`
	ToCheckpoint   *string  `json:"to_checkpoint"`
}

// place takes one of the places for questions about the audit log that run at
// once; without one, the caller is told to come back.
func (a *API) place(places chan struct{}) (release func(), err error) {
	if a.cfg.AuditLog == nil {
		return nil, refusal(asap.CodeNotFound)
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, refusal(asap.CodeOverloaded)
	}
}

func (a *API) verifyAudit(c *call) error {
	check, err := a.check(c)
	if err != nil {
		return err
	}
	release, err := a.place(a.audits)
	if err != nil {
		return err
	}
	defer release()
	lines := strings.Contains(c.r.Header.Get("Accept"), "application/x-ndjson")
	if lines {
		out := http.NewResponseController(c.w)
		check.Progress = func(checked, total int64) {
			c.w.Header().Set("Content-Type", "application/x-ndjson")
			b, err := json.Marshal(map[string]any{"progress": map[string]int64{"checked": checked, "total": total}}, json.Deterministic(true))
			if err == nil {
				_, _ = c.w.Write(append(b, '\n')) // the client went away
				_ = out.Flush()
			}
		}
	}
	var begun bool
	if report := check.Progress; report != nil {
		check.Progress = func(checked, total int64) { begun = true; report(checked, total) }
	}
	verdict, err := a.cfg.AuditLog.Verify(c.ctx(), check)
	if err != nil {
		if !begun {
			return err
		}
		a.cfg.Logger.ErrorContext(c.ctx(), "verification broke off", "error", err)
		panic(http.ErrAbortHandler) // the way to cut the connection, so that nobody takes it for an answer
	}
	b, err := appendVerdict(verdict)
	if err != nil {
		return err
	}
	if !lines {
		return writeBytes(c.w, http.StatusOK, b)
	}
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	_, _ = c.w.Write(append(b, '\n')) // the client went away
	return nil
}

// appendVerdict writes the verdict and, if there is one, the message.
func appendVerdict(v audit.Verdict) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || v.Message == "" {
		return b, err
	}
	b, err = jsontext.AppendQuote(append(b[:len(b)-1], `,"message":`...), v.Message)
	return append(b, '}'), err
}

// check reads the parameters of a verification.
func (a *API) check(c *call) (check auditlog.Check, err error) {
	whole := func(name string, to *int64) {
		if err == nil {
			var n int
			n, err = c.params.integer(name, 0, 0, maxSeq)
			*to = int64(n)
		}
	}
	whole("from", &check.From)
	whole("to", &check.To)
	whole("min_size", &check.MinSize)
	if c.params.values.Has("max_unsealed") {
		check.MaxUnsealed = new(int64)
		whole("max_unsealed", check.MaxUnsealed)
	}
	if err != nil {
		return check, err
	}
	if check.Reconcile, err = c.params.yes("reconcile"); err != nil {
		return check, err
	}
	check.Keys = a.cfg.AuditKeys
	if vkeys := c.params.values["vkey"]; len(vkeys) == 1 && vkeys[0] == "none" {
		check.Keys = audit.Keys{}
	} else if len(vkeys) > 0 {
		if check.Keys, err = audit.ParseKeys(vkeys...); err != nil {
			return check, refuse(asap.CodeInvalidFilter, "vkey", "%v", err)
		}
	}
	for _, note := range c.params.values["checkpoint"] {
		check.Remembered = append(check.Remembered, []byte(note))
	}
	require, err := c.params.text("require")
	if err != nil {
		return check, err
	}
	if require != "" {
		if check.Require, err = audit.ParseAssurance(require); err != nil {
			return check, refuse(asap.CodeInvalidFilter, "require", "%v", err)
		}
	}
	receipt, err := c.params.text("receipt")
	if err != nil || receipt == "" {
		return check, err
	}
	var r struct {
		Seq  int64  `json:"seq"`
		ID   string `json:"id"`
		Hash string `json:"hash"`
	}
	bad := json.Unmarshal([]byte(receipt), &r)
	hash, hexErr := hex.DecodeString(r.Hash)
	if bad != nil || hexErr != nil || len(hash) != 32 {
		return check, refuse(asap.CodeInvalidFilter, "receipt", `is not {"seq", "id", "hash"}`)
	}
	check.Receipt = &audit.Receipt{ID: r.ID, Seq: r.Seq, Hash: [32]byte(hash)}
	return check, nil
}

func (a *API) exportAudit(c *call) error {
	name, err := c.params.text("format", "export_format")
	if err != nil {
		return err
	}
	if name == "" {
		name = string(audit.JSON)
	}
	format, err := audit.ParseFormat(name)
	if err != nil {
		return refuse(asap.CodeInvalidFilter, "format", "%v", err)
	}
	if a.cfg.AuditLog == nil {
		return refusal(asap.CodeNotFound)
	}
	out := &lateHeader{w: c.w, set: func(h http.Header) {
		h.Set("Content-Type", format.ContentType())
		h.Set("Content-Disposition", "attachment; filename=audit_export."+string(format))
	}}
	if err := a.cfg.AuditLog.Export(c.ctx(), out, format); err != nil {
		if !out.begun {
			return err
		}
		if c.ctx().Err() == nil {
			a.cfg.Logger.ErrorContext(c.ctx(), "audit export broke off", "error", err)
		}
		panic(http.ErrAbortHandler) // the way to cut the connection, so that the reader notices
	}
	return nil
}

func (a *API) auditCheckpoint(c *call) error {
	if a.cfg.AuditLog == nil {
		return refusal(asap.CodeNotFound)
	}
	note, err := a.cfg.AuditLog.Checkpoint(c.ctx())
	if err != nil {
		return err
	}
	if note == nil {
		return problemOf(asap.CodeNotFound, "The log has no checkpoint yet.")
	}
	if !strings.Contains(c.r.Header.Get("Accept"), "application/json") {
		c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = c.w.Write(note) // the client went away
		return nil
	}
	k, err := audit.ParseCheckpoint(note)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, checkpointAnswer{k.Origin, k.Size, k.Root.String(), a.cfg.AuditVKey, string(note)})
}

func (a *API) proveInclusion(c *call) error {
	id, err := c.params.text("id")
	if err != nil {
		return err
	}
	seq, err := c.params.integer("seq", -1, 0, maxSeq)
	if err != nil {
		return err
	}
	if (id == "") == (seq < 0) {
		return refuse(asap.CodeInvalidFilter, "seq", "name the entry by seq or by id")
	}
	if id != "" {
		e, err := a.cfg.Audit.AuditEntry(c.ctx(), id)
		if err != nil {
			return err
		}
		seq = int(e.Seq)
	}
	size, err := c.params.integer("size", 0, 1, maxSeq)
	if err != nil {
		return err
	}
	release, err := a.place(a.proofs)
	if err != nil {
		return err
	}
	defer release()
	p, err := a.cfg.AuditLog.ProveInclusion(c.ctx(), int64(seq), int64(size))
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, inclusionAnswer{p.Seq, p.Size, hex.EncodeToString(p.Hash[:]), p.Root.String(), hashTexts(p.Hashes), noteText(p.Checkpoint)})
}

func (a *API) proveConsistency(c *call) error {
	older, err := c.params.integer("from", -1, 0, maxSeq)
	if err != nil {
		return err
	}
	if older < 0 {
		return refuse(asap.CodeInvalidFilter, "from", "is missing")
	}
	newer, err := c.params.integer("to", 0, 0, maxSeq)
	if err != nil {
		return err
	}
	release, err := a.place(a.proofs)
	if err != nil {
		return err
	}
	defer release()
	p, err := a.cfg.AuditLog.ProveConsistency(c.ctx(), int64(older), int64(newer))
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, consistencyAnswer{p.Old, p.New, p.OldRoot.String(), p.NewRoot.String(), hashTexts(p.Hashes),
		noteText(p.OldCheckpoint), noteText(p.NewCheckpoint)})
}

// proofOf is the tlog-proof of an entry. One that is not sealed yet has none.
func (a *API) proofOf(c *call, seq int64) (string, error) {
	release, err := a.place(a.proofs)
	if err != nil {
		return "", err
	}
	defer release()
	p, err := a.cfg.AuditLog.ProveInclusion(c.ctx(), seq, 0)
	if errors.Is(err, auditlog.ErrRange) {
		return "", problemOf(asap.CodeNotFound, "The entry is not sealed yet; its proof comes with the next checkpoint, within a second or two.")
	}
	if err != nil {
		return "", err
	}
	return string(audit.Proof{Seq: seq, Hashes: p.Hashes, Checkpoint: p.Checkpoint}.Format()), nil
}

func hashTexts(hashes []audit.Hash) []string {
	texts := make([]string, len(hashes))
	for i, h := range hashes {
		texts[i] = h.String()
	}
	return texts
}

func noteText(note []byte) *string {
	if note == nil {
		return nil
	}
	return new(string(note))
}
