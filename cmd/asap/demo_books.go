package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// demoBooks is what the stopped node's directory holds.
type demoBooks struct {
	log         []logEntry // of the exported audit log
	checkpoints []string
	records     []demoRecord
	totals      struct {
		Tasks int64  `json:"total_tasks"`
		USD   string `json:"total_cost_usd"`
	}
	used map[string]demoUsed // by delegation
}

// logEntry is one line of the exported audit log.
type logEntry struct {
	Seq          int64  `json:"seq"`
	ID           string `json:"id"`
	Type         string `json:"event_type"`
	Subject      string `json:"subject"`
	PreviousHash string `json:"previous_hash"`
	Hash         string `json:"hash"`
	Details      struct {
		Cost       string         `json:"cost_usd"`
		DurationMS int64          `json:"duration_ms"`
		TokensIn   int64          `json:"tokens_in"`
		TokensOut  int64          `json:"tokens_out"`
		Event      string         `json:"event"`
		Delegation jsontext.Value `json:"delegation"`
	} `json:"details"`
	octets []byte // what the hash is of
}

// under tells whether an entry of a task's start or usage names a delegation.
func (e *logEntry) under(id string) bool {
	return bytes.Contains(e.Details.Delegation, []byte(`"`+id+`"`))
}

// demoRecord is one usage record.
type demoRecord struct {
	ID        string `json:"id"`
	TaskID    string `json:"task_id"`
	TokensIn  int64  `json:"tokens_in"`
	TokensOut int64  `json:"tokens_out"`
	Cost      string `json:"cost_usd"`
}

// readBooks reads the directory of the stopped node, and exports its log.
func (d *demo) readBooks(ctx context.Context) (err error) {
	n, err := openDirectory(ctx, d.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	d.books = &demoBooks{used: map[string]demoUsed{}}
	res, err := n.do(ctx, http.MethodGet, "/audit/export", url.Values{"format": {"jsonl"}}, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	export, err := io.ReadAll(res.Body)
	if err != nil {
		return stateErrorf("export the log: %w", err)
	}
	if err := writeFileAtomic(filepath.Join(d.dir, demoExport), export, 0o600, true); err != nil {
		return err
	}
	if err := d.books.readLog(export); err != nil {
		return stateErrorf("read the exported log: %w", err)
	}
	var page struct {
		Data []demoRecord `json:"data"`
	}
	if err := n.get(ctx, "/usage/export", nil, &page); err != nil {
		return err
	}
	d.books.records = page.Data
	for _, g := range d.grants {
		if d.books.used[g.id], err = usedOf(ctx, n, g.id); err != nil {
			return err
		}
	}
	return n.get(ctx, "/usage/summary", nil, &d.books.totals)
}

// readLog reads the lines of an export.
func (b *demoBooks) readLog(export []byte) error {
	for line := range bytes.Lines(export) {
		var l struct {
			logEntry   `json:",inline"`
			Checkpoint string `json:"checkpoint"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		switch {
		case l.Checkpoint != "":
			b.checkpoints = append(b.checkpoints, l.Checkpoint)
		case l.Hash != "":
			l.octets = bytes.TrimSpace(bytes.Replace(line, []byte(`"hash":"`+l.Hash+`",`), nil, 1))
			b.log = append(b.log, l.logEntry)
		}
	}
	return nil
}

// of selects the entries of a type.
func (b *demoBooks) of(eventType string) []logEntry {
	return slices.DeleteFunc(slices.Clone(b.log), func(e logEntry) bool { return e.Type != eventType })
}

// logged is what the entries of the log cost.
func (b *demoBooks) logged() (tasks, nano int64, err error) {
	for _, e := range b.of(audit.UsageRecorded) {
		cost, err := nanoUSD(e.Details.Cost)
		if err != nil {
			return 0, 0, err
		}
		tasks, nano = tasks+1, nano+cost
	}
	return tasks, nano, nil
}

// recorded is what the usage records cost.
func (b *demoBooks) recorded() (tasks, nano int64, err error) {
	for _, r := range b.records {
		cost, err := nanoUSD(r.Cost)
		if err != nil {
			return 0, 0, err
		}
		tasks, nano = tasks+1, nano+cost
	}
	return tasks, nano, nil
}

// verifyDemoExport verifies an export with the public key and nothing else.
func (d *demo) verifyDemoExport(name string) (auditVerdict, error) {
	return d.a.verifyFile(filepath.Join(d.dir, name), &auditFlags{keys: []string{d.vkey}, maxUnsealed: -1})
}

// verifyDirectory verifies the log in a data directory, and with reconcile all
// that was computed from it.
func (d *demo) verifyDirectory(ctx context.Context, dir string, reconcile bool) (v auditVerdict, err error) {
	n, err := openDirectory(ctx, dir)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return d.a.verifyNode(ctx, n, &auditFlags{keys: []string{d.vkey}, maxUnsealed: -1, reconcile: reconcile})
}

func (d *demo) actBooks(ctx context.Context) error {
	d.begin("The books")
	if err := d.close(); err != nil { // the last checkpoint is signed now
		return err
	}
	if err := d.readBooks(ctx); err != nil {
		return err
	}
	d.say("The node has stopped. The rest is read from its files, as an auditor would.")
	recorded, recordedNano, err := d.books.recorded()
	if err != nil {
		return err
	}
	logged, loggedNano, err := d.books.logged()
	if err != nil {
		return err
	}
	total, err := nanoUSD(d.books.totals.USD)
	if err != nil {
		return err
	}
	d.say("                           tasks    costs USD")
	line := func(what string, tasks, nano int64) { d.say("  %-22s  %6d   %10s", what, tasks, usd(nano)) }
	line("usage records", recorded, recordedNano)
	line("running totals", d.books.totals.Tasks, total)
	line("audit log", logged, loggedNano)
	line("answers callers got", int64(len(d.answered)), d.expectedNanoUSD())
	v, err := d.verifyDemoExport(demoExport)
	if err != nil {
		return err
	}
	if !v.Valid {
		return refusedErrorf("the log is not valid: %s", v.Message)
	}
	d.say("The log is a chain of hashes, signed about once a second. With the public key, and nothing else,")
	d.say("anybody can check a copy of it: valid, and signed from the first entry to the last.")
	d.act.Figures["tasks"], d.act.Figures["cost_usd"], d.act.Figures["entries"] = logged, usd(loggedNano), v.Size
	return nil
}

// expectedNanoUSD is what the answers cost by the price list, computed from what
// the library told its callers.
func (d *demo) expectedNanoUSD() (nano int64) {
	for _, a := range d.answered {
		nano += priceOf(a.tokensIn, a.tokensOut)
	}
	return nano
}

func priceOf(tokensIn, tokensOut int64) int64 {
	return demoTaskNanoUSD + tokensIn*demoInNanoUSD + tokensOut*demoOutNanoUSD
}

// forgery is what the forgers did, and what came of it.
type forgery struct {
	seq       int64 // of the entry that was changed
	original  auditVerdict
	copied    auditVerdict // one digit changed in the copy's file
	rewritten auditVerdict // and every hash after it computed anew
}

func (d *demo) actForger(ctx context.Context) error {
	d.begin("Two forgers")
	target, changed, err := d.chooseForgery()
	if err != nil {
		return err
	}
	if err := d.forgeCopy(target.octets, changed); err != nil {
		return err
	}
	if d.original, err = d.verifyDirectory(ctx, d.dir, true); err != nil {
		return err
	}
	if d.copied, err = d.verifyDirectory(ctx, filepath.Join(d.dir, forgedDir), false); err != nil {
		return err
	}
	if err := d.rewrite(target.Seq, changed); err != nil {
		return err
	}
	if d.rewritten, err = d.verifyDemoExport(demoRewritten); err != nil {
		return err
	}
	d.seq = target.Seq
	was, err := nanoUSD(target.Details.Cost)
	if err != nil {
		return err
	}
	d.say("The first copies the node's directory and, with a plain file editor, changes one digit of the database:")
	d.say("an answer that cost %s USD shall have cost a cent less. It is entry %d of the log.", usd(was), target.Seq)
	d.row("the original", "%s", verdictLine(d.original))
	d.row("the copy", "%s", verdictLine(d.copied))
	d.say("The second is cleverer, and computes all hashes after the change anew. The chain fits together again,")
	d.say("but the signatures do not: only the node has the key.")
	d.row("the rewritten log", "%s", verdictLine(d.rewritten))
	d.act.Figures["entry"], d.act.Figures["original"], d.act.Figures["copy"], d.act.Figures["rewritten"] = target.Seq, d.original, d.copied, d.rewritten
	return nil
}

// verdictLine is a verdict in a few words.
func verdictLine(v auditVerdict) string {
	switch {
	case v.Valid:
		return "valid"
	case v.Reason != nil && *v.Reason == string(audit.HashMismatch) && v.FirstBadSeq != nil:
		return fmt.Sprintf("NOT valid: entry %d is not what was written (%s)", *v.FirstBadSeq, *v.Reason)
	case v.Reason != nil && *v.Reason == string(audit.CheckpointMismatch):
		return fmt.Sprintf("NOT valid: it is not the log that was signed (%s)", *v.Reason)
	case v.Reason != nil:
		return fmt.Sprintf("NOT valid: %s (%s)", v.Message, *v.Reason)
	}
	return "NOT valid"
}

// chooseForgery finds the last entry of the loop that cost two cents and something,
// and what it would be for one cent less.
func (d *demo) chooseForgery() (target logEntry, changed []byte, err error) {
	for _, e := range d.books.of(audit.UsageRecorded) {
		cost := `"cost_usd":"` + e.Details.Cost + `"`
		if rest, ok := strings.CutPrefix(e.Details.Cost, "0.02"); ok && e.under(d.grants["loop"].id) && bytes.Count(e.octets, []byte(cost)) == 1 {
			target, changed = e, bytes.Replace(e.octets, []byte(cost), []byte(`"cost_usd":"0.01`+rest+`"`), 1)
		}
	}
	if changed == nil {
		err = stateErrorf("the log has no entry to forge")
	}
	return target, changed, err
}

// forgeCopy copies the directory and changes the octets in the copy's database.
func (d *demo) forgeCopy(octets, changed []byte) error {
	forged := filepath.Join(d.dir, forgedDir)
	if err := os.MkdirAll(forged, 0o700); err != nil {
		return err
	}
	for _, name := range []string{node.LedgerFile, node.KeyFile, node.VKeyFile, node.OperatorTokenFile, "audit-signer.json"} {
		content, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		if name == node.LedgerFile {
			if !bytes.Contains(content, octets) {
				return stateErrorf("the entry is not in one piece in %s", name)
			}
			content = bytes.ReplaceAll(content, octets, changed)
		}
		if err := writeFileAtomic(filepath.Join(forged, name), content, 0o600, true); err != nil {
			return err
		}
	}
	return nil
}

// rewrite writes an export in which one entry is another, and every hash after it
// is computed anew; the signed checkpoints are those of the node.
func (d *demo) rewrite(seq int64, changed []byte) error {
	var out bytes.Buffer
	e, err := audit.NewExporter(&out, audit.JSONL, audit.NewHeader(d.origin, d.vkey, int64(len(d.books.log)), nil))
	if err != nil {
		return err
	}
	previous := ""
	for _, entry := range d.books.log {
		octets := entry.octets
		if entry.Seq == seq {
			octets = changed
		}
		if previous != "" {
			octets = bytes.Replace(octets, []byte(`"previous_hash":"`+entry.PreviousHash+`"`), []byte(`"previous_hash":"`+previous+`"`), 1)
		}
		hash := sha256.Sum256(octets)
		previous = hex.EncodeToString(hash[:])
		if err := e.Entry(entry.Seq, octets, hash); err != nil {
			return err
		}
	}
	for _, c := range d.books.checkpoints {
		if err := e.Checkpoint([]byte(c)); err != nil {
			return err
		}
	}
	if err := e.Close(); err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(d.dir, demoRewritten), out.Bytes(), 0o600, true)
}
