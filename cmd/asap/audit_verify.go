package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// auditFlags say what a log is verified against. Nothing of it comes from the
// log or from the node.
type auditFlags struct {
	file        string
	vkeys       []string
	checkpoints []string
	require     string
	minSize     int64
	maxUnsealed int64
	from, to    int64
	reconcile   bool

	// What the flags name, read.
	keys       []string
	remembered [][]byte
	receipt    *audit.Receipt
}

func (f *auditFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "file", "", "an export (json or jsonl) instead of a node; needs nothing else of it")
	cmd.Flags().StringArrayVar(&f.vkeys, "vkey", nil, "verifier key of the log, or a file with it (node.vkey), got some other way than the log; may be repeated")
	cmd.Flags().StringArrayVar(&f.checkpoints, "checkpoint", nil, "file with a checkpoint kept from before, which the log must continue; may be repeated")
	cmd.Flags().StringVar(&f.require, "require", "", "least assurance that is valid: none, chain, sealed or consistent (default: sealed with --vkey)")
	cmd.Flags().Int64Var(&f.minSize, "min-size", 0, "least number of entries")
	cmd.Flags().Int64Var(&f.maxUnsealed, "max-unsealed", -1, "longest unsealed tail")
}

// load reads what the flags name. What cannot be read is exit 3, what is not what
// it should be exit 2.
func (f *auditFlags) load(flags *nodeFlags, cmd *cobra.Command) error {
	if f.file != "" && (flags.url != "" || cmd.Flags().Changed("data")) {
		return usageErrorf("--file, --data and --node: name one log")
	}
	for _, v := range f.vkeys {
		text := v
		if !strings.Contains(v, "+") || fileExists(v) {
			b, err := readNamed(v)
			if err != nil {
				return err
			}
			text = string(b)
		}
		for _, line := range strings.Fields(text) {
			if _, _, err := audit.ParseVKey(line); err != nil {
				return usageErrorf("--vkey %s: %w", v, err)
			}
			f.keys = append(f.keys, line)
		}
	}
	for _, name := range f.checkpoints {
		b, err := readNamed(name)
		if err != nil {
			return err
		}
		if _, err := audit.ParseCheckpoint(b); err != nil {
			return usageErrorf("--checkpoint %s: %w", name, err)
		}
		f.remembered = append(f.remembered, b)
	}
	if _, err := audit.ParseAssurance(f.require); f.require != "" && err != nil {
		return usageErrorf("--require: %w", err)
	}
	return nil
}

// readNamed reads a small file that a flag names.
func readNamed(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, stateErrorf("%w", err)
	}
	return b, nil
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// options are those of package audit.
func (f *auditFlags) options() (audit.Options, error) {
	keys, err := audit.ParseKeys(f.keys...)
	if err != nil {
		return audit.Options{}, usageErrorf("--vkey: %w", err)
	}
	o := audit.Options{Keys: keys, Remembered: f.remembered, Require: audit.Assurance(f.require), MinSize: f.minSize, Receipt: f.receipt}
	if f.maxUnsealed >= 0 {
		o.MaxUnsealed = &f.maxUnsealed
	}
	return o, nil
}

// query asks the same of a node.
func (f *auditFlags) query() url.Values {
	q := url.Values{"vkey": f.keys}
	if len(f.keys) == 0 {
		q.Set("vkey", "none")
	}
	for _, note := range f.remembered {
		q.Add("checkpoint", string(note))
	}
	set := func(name string, n int64, given bool) {
		if given {
			q.Set(name, strconv.FormatInt(n, 10))
		}
	}
	set("min_size", f.minSize, f.minSize > 0)
	set("max_unsealed", f.maxUnsealed, f.maxUnsealed >= 0)
	set("from", f.from, f.from > 0)
	set("to", f.to, f.to > 0)
	if f.require != "" {
		q.Set("require", f.require)
	}
	if f.reconcile {
		q.Set("reconcile", "1")
	}
	if r := f.receipt; r != nil {
		q.Set("receipt", fmt.Sprintf(`{"seq":%d,"id":%q,"hash":"%x"}`, r.Seq, r.ID, r.Hash))
	}
	return q
}

// auditVerdict is the answer to a verification, here or from a node.
type auditVerdict struct {
	Valid          bool           `json:"valid"`
	Assurance      string         `json:"assurance"`
	FirstBadSeq    *int64         `json:"first_bad_seq"`
	Reason         *string        `json:"reason"`
	EntriesChecked int64          `json:"entries_checked"`
	Size           int64          `json:"size"`
	MinIndex       int64          `json:"min_index"`
	SealedThrough  int64          `json:"sealed_through"`
	UnsealedTail   int64          `json:"unsealed_tail"`
	HeadHash       string         `json:"head_hash"`
	RootHash       string         `json:"root_hash"`
	Guards         guards         `json:"guards"`
	Reconciliation jsontext.Value `json:"reconciliation"`
	Message        string         `json:"message,omitempty"`
}

type guards struct {
	Missing []string `json:"missing"`
}

func verdictOf(v audit.Verdict) (out auditVerdict, err error) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	out.Message = v.Message
	return out, err
}

func (a *app) auditVerifyCommand(flags *nodeFlags) *cobra.Command {
	var f auditFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the audit log: of a data directory, a node or an export",
		Long: `verify checks every entry, the chain, the tree and the signed checkpoints, and
names the first entry that is not as it was and what is wrong with it. An export
and a data directory need no running node. Without a pinned key (--vkey) the
answer is at best "chain": the entries fit together, but whoever can write them
all could have written all of them anew.

Exit status: 0 valid, 1 not valid, 2 unusable input, 3 the log cannot be read.`,
		Example: `  asap audit verify --file export.jsonl --vkey node.vkey
  asap audit verify --data asap-data --vkey node.vkey --checkpoint last-year.checkpoint`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			if err := f.load(flags, cmd); err != nil {
				return err
			}
			v, err := a.verify(cmd, flags, &f)
			if err != nil {
				return err
			}
			return a.showVerdict(v, &f)
		}),
	}
	f.add(cmd)
	cmd.Flags().Int64Var(&f.from, "from", 0, "check from this seq on")
	cmd.Flags().Int64Var(&f.to, "to", 0, "check up to the first checkpoint at or after this seq")
	cmd.Flags().BoolVar(&f.reconcile, "reconcile", false, "compare with usage records, totals and budgets as well")
	return cmd
}

// verify verifies the log that the flags name.
func (a *app) verify(cmd *cobra.Command, flags *nodeFlags, f *auditFlags) (v auditVerdict, err error) {
	if f.file != "" {
		if f.reconcile || f.from > 0 || f.to > 0 {
			return v, usageErrorf("--file: an export is verified as a whole, and holds no tables to compare it with")
		}
		return a.verifyFile(f.file, f)
	}
	err = a.withNode(flags, func(ctx context.Context, n *nodeAPI) (err error) {
		if v, err = a.verifyNode(ctx, n, f); err != nil || !n.remote || !v.Valid || f.from > 0 || f.to > 0 || len(f.keys)+len(f.remembered) == 0 {
			return err
		}
		// A node's own word is not proof: its export is verified here too.
		here, err := a.verifyExportOf(ctx, n, f)
		if err == nil && (!here.Valid || here.Assurance != v.Assurance) {
			here.Guards, here.Reconciliation = v.Guards, v.Reconciliation
			v = here
		}
		return err
	})(cmd, nil)
	return v, err
}

// verifyFile verifies an export.
func (a *app) verifyFile(name string, f *auditFlags) (v auditVerdict, err error) {
	file, err := os.Open(name)
	if err != nil {
		return v, stateErrorf("%w", err)
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return v, stateErrorf("%w", err)
	}
	o, err := f.options()
	if err != nil {
		return v, err
	}
	show, done := a.progress()
	defer done()
	o.Progress = func(checked int64) { show(checked, 0) }
	found, err := audit.VerifyExport(file, info.Size(), o)
	switch {
	case errors.Is(err, audit.ErrUnknownKey), errors.Is(err, audit.ErrSignature), errors.Is(err, audit.ErrCheckpoint):
		return v, usageErrorf("--checkpoint: %w", err)
	case err != nil:
		return v, stateErrorf("%s: %w", name, err)
	}
	return verdictOf(found)
}

// verifyNode asks a node, or the code of one over a data directory.
func (a *app) verifyNode(ctx context.Context, n *nodeAPI, f *auditFlags) (v auditVerdict, err error) {
	n.accept = "application/x-ndjson"
	res, err := n.do(ctx, http.MethodGet, "/audit/verify", f.query(), "", nil)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	show, done := a.progress()
	defer done()
	in := bufio.NewReader(res.Body)
	for {
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) == 0 {
			return v, stateErrorf("the node broke off before the verdict: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		var p struct {
			Progress *struct {
				Checked int64 `json:"checked"`
				Total   int64 `json:"total"`
			} `json:"progress"`
		}
		if err := json.Unmarshal(line, &p); err != nil {
			return v, stateErrorf("read the node's answer: %w", err)
		}
		if p.Progress == nil {
			if err := json.Unmarshal(line, &v); err != nil {
				return v, stateErrorf("read the node's answer: %w", err)
			}
			return v, nil
		}
		show(p.Progress.Checked, p.Progress.Total)
	}
}

// verifyExportOf fetches the export of a node and verifies it here.
func (a *app) verifyExportOf(ctx context.Context, n *nodeAPI, f *auditFlags) (v auditVerdict, err error) {
	res, err := n.do(ctx, http.MethodGet, "/audit/export", url.Values{"format": {"jsonl"}}, "", nil)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	tmp, err := os.CreateTemp("", "asap-audit-*.jsonl")
	if err != nil {
		return v, err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // a leftover in the temporary directory
	if _, err = io.Copy(tmp, res.Body); err != nil {
		return v, stateErrorf("read the node's export: %w", errors.Join(err, tmp.Close()))
	}
	if err := tmp.Close(); err != nil {
		return v, err
	}
	return a.verifyFile(tmp.Name(), f)
}

// progress returns what shows progress on a terminal, and what ends it.
func (a *app) progress() (show func(checked, total int64), done func()) {
	if !terminal(a.errOut) {
		return func(int64, int64) {}, func() {}
	}
	shown := false
	return func(checked, total int64) {
			shown = true
			if total > 0 {
				fmt.Fprintf(a.errOut, "\r%d of %d entries checked", checked, total)
				return
			}
			fmt.Fprintf(a.errOut, "\r%d entries checked", checked)
		}, func() {
			if shown {
				fmt.Fprint(a.errOut, "\r\x1b[K")
			}
		}
}

// showVerdict prints the verdict and ends with its status.
func (a *app) showVerdict(v auditVerdict, f *auditFlags) error {
	err := a.answer(v, func(w io.Writer) error {
		if !v.Valid {
			at := ""
			if v.FirstBadSeq != nil {
				at = fmt.Sprintf(" at entry %d", *v.FirstBadSeq)
			}
			reason := "unknown"
			if v.Reason != nil {
				reason = *v.Reason
			}
			fmt.Fprintf(w, "%s: %s%s: %s\n", a.paint(ansiRed, "not valid"), plain(reason), at, plain(v.Message))
		} else {
			fmt.Fprintf(w, "%s: %d entries checked, log of %d, assurance %s", a.paint(ansiGreen, "valid"), v.EntriesChecked, v.Size, plain(v.Assurance))
			if v.MinIndex > 0 {
				fmt.Fprintf(w, ", pruned before %d", v.MinIndex)
			}
			if len(f.keys) > 0 {
				fmt.Fprintf(w, ", sealed through %d, unsealed tail %d", v.SealedThrough, v.UnsealedTail)
			}
			fmt.Fprintln(w)
		}
		if v.HeadHash != "" {
			fmt.Fprintf(w, "head %s\n", v.HeadHash)
		}
		if v.RootHash != "" {
			fmt.Fprintf(w, "root %s\n", v.RootHash)
		}
		if len(v.Guards.Missing) > 0 {
			fmt.Fprintf(w, "guard_missing: %s\n", strings.Join(v.Guards.Missing, ", "))
		}
		return a.showReconciliation(v.Reconciliation)
	})
	if err != nil {
		return err
	}
	if len(f.keys) == 0 && !a.json {
		fmt.Fprintln(a.errOut, "no key was pinned: the log could have been written anew as a whole; --vkey FILE pins one")
	}
	if !v.Valid {
		return quietFailure(exitRefused)
	}
	return nil
}

// reconciliation is what is printed of the comparison.
type reconciliation struct {
	Consistent bool   `json:"consistent"`
	Drift      string `json:"drift_percent"`
	Partial    bool   `json:"partial"`
	Totals     []struct {
		Quantity string `json:"quantity"`
		Log      int64  `json:"log"`
		Hours    int64  `json:"hour_rollups"`
		Days     int64  `json:"day_rollups"`
		Months   int64  `json:"month_rollups"`
		Rows     *int64 `json:"records"`
	} `json:"totals"`
	Tasks    int64 `json:"tasks"`
	Records  int64 `json:"records"`
	Budgets  int64 `json:"budgets"`
	Rollups  int64 `json:"rollups"`
	Examples []struct {
		Reason string `json:"reason"`
		Seq    *int64 `json:"seq"`
		What   string `json:"what"`
	} `json:"examples"`
	Differences map[string]int64 `json:"differences"`
}

func (a *app) showReconciliation(raw jsontext.Value) error {
	if len(raw) == 0 || raw.Kind() == 'n' {
		return nil
	}
	var r reconciliation
	if err := json.Unmarshal(raw, &r); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	rows := make([][]string, len(r.Totals))
	for i, t := range r.Totals {
		number := func(n int64) string { return strconv.FormatInt(n, 10) }
		rows[i] = []string{t.Quantity, number(t.Log), number(t.Hours), number(t.Days), number(t.Months), count(t.Rows)}
	}
	if err := a.table([]string{"QUANTITY", "LOG", "HOURS", "DAYS", "MONTHS", "RECORDS"}, rows); err != nil {
		return err
	}
	partial := ""
	if r.Partial {
		partial = " (a part of the log was pruned and cannot be computed again)"
	}
	fmt.Fprintf(a.out, "drift %s %%: %d tasks, %d records, %d budgets, %d totals compared%s\n", r.Drift, r.Tasks, r.Records, r.Budgets, r.Rollups, partial)
	for _, d := range r.Examples {
		at := ""
		if d.Seq != nil {
			at = fmt.Sprintf(" at entry %d", *d.Seq)
		}
		fmt.Fprintf(a.out, "%s%s: %s\n", plain(d.Reason), at, plain(d.What))
	}
	return nil
}

func (a *app) auditReconcileCommand(flags *nodeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "reconcile",
		Short: "Compute all usage, totals and budgets again from the log, and compare",
		Long: `reconcile computes every usage total, budget counter and rollup again from the
audit log alone and compares them with what the ledger holds. It prints the drift,
which is 0, and ends with status 1 on any difference.`,
		Args: cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			f := auditFlags{reconcile: true, maxUnsealed: -1}
			v, err := a.verify(cmd, flags, &f)
			if err != nil {
				return err
			}
			err = a.answer(v, func(io.Writer) error {
				if !v.Valid && v.Reason != nil {
					fmt.Fprintf(a.out, "%s: %s: %s\n", a.paint(ansiRed, "not consistent"), plain(*v.Reason), plain(v.Message))
				}
				return a.showReconciliation(v.Reconciliation)
			})
			if err == nil && !v.Valid {
				return quietFailure(exitRefused)
			}
			return err
		}),
	}
}

// readReceipt finds a receipt in a file: alone, or as the extension asap-receipt
// of an answer, or anywhere in what asap send prints.
func readReceipt(name string) (*audit.Receipt, error) {
	b, err := readNamed(name)
	if err != nil {
		return nil, err
	}
	found := findReceipt(b)
	if found == nil {
		return nil, usageErrorf(`%s holds no receipt {"seq", "id", "hash"}`, name)
	}
	return found, nil
}

// findReceipt returns the first receipt in a sequence of JSON values, or nil.
func findReceipt(b []byte) (found *audit.Receipt) {
	var look func(v any)
	look = func(v any) {
		if found != nil {
			return
		}
		switch v := v.(type) {
		case map[string]any:
			if found = receiptOf(v); found != nil {
				return
			}
			// Each member once: twice would be a time that doubles with each level.
			const named = "asap-receipt"
			look(v[named])
			for name, inner := range v {
				if name != named {
					look(inner)
				}
			}
		case []any:
			for _, inner := range v {
				look(inner)
			}
		}
	}
	d := jsontext.NewDecoder(bytes.NewReader(b))
	for found == nil {
		var v any
		if err := json.UnmarshalDecode(d, &v); err != nil {
			break
		}
		look(v)
	}
	return found
}

func receiptOf(v map[string]any) *audit.Receipt {
	id, _ := v["id"].(string)
	seq, isNumber := v["seq"].(float64)
	text, _ := v["hash"].(string)
	hash, err := hex.DecodeString(text)
	if id == "" || !isNumber || seq < 0 || seq > 1<<53 || seq != math.Trunc(seq) || err != nil || len(hash) != 32 {
		return nil
	}
	return &audit.Receipt{ID: id, Seq: int64(seq), Hash: [32]byte(hash)}
}
