package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// ErrCopyRefused reports a history that is not moved, or not taken for moved: the
// target is not empty, the source does not verify, or the copy is another one.
var ErrCopyRefused = errors.New("not copied")

// CopiedTable is one part of what was moved.
type CopiedTable struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// CopyReport says what was moved, and what was found when it was verified in its
// new place.
type CopyReport struct {
	From          string        `json:"from"`
	To            string        `json:"to"`
	Tables        []CopiedTable `json:"tables"`
	Entries       int64         `json:"entries"`
	HeadHash      string        `json:"head_hash"`
	RootHash      string        `json:"root_hash"`
	SealedThrough int64         `json:"sealed_through"`
	Records       int64         `json:"records"`
	DriftPercent  string        `json:"drift_percent"`
}

// CopyStore moves the whole history of a stopped node from the SQLite store of
// config into the empty PostgreSQL database that to names. The source is
// verified first and never changed. The target is marked as unfinished until
// every table in it was read back and compared, the audit log in it verified and
// all totals computed from it again; a copy that was interrupted starts over. The
// node's key and the signer's memory stay where they are. to is written as in the
// configuration, store.
func CopyStore(ctx context.Context, config Config, to string, now func() time.Time, progress func(CopiedTable)) (report CopyReport, err error) {
	target, err := (&Config{Store: to}).storePlace()
	if err != nil {
		return report, fmt.Errorf("the store to copy into: %w", err)
	}
	if target.postgres == "" {
		return report, fmt.Errorf("%w: the store to copy into: %s is not postgres://…", ErrConfig, redactStore(to))
	}
	url := target.postgres
	path, err := config.StorePath()
	if err != nil {
		return report, err
	}
	if path == "" {
		return report, fmt.Errorf("%w: the store to copy is not a SQLite file", ErrConfig)
	}
	if _, err := os.Stat(path); err != nil {
		return report, fmt.Errorf("open the store to copy: %w", err)
	}
	source, err := sqlite.Open(ctx, path, sqlite.Options{Now: now})
	var locked *sqlite.LockedError
	if errors.As(err, &locked) {
		return report, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	before, err := audited(ctx, source, config.Data)
	if err != nil {
		return report, fmt.Errorf("the store to copy: %w", err)
	}
	report.From = source.Path()
	digests, err := copyTables(ctx, source, url, &report, progress)
	if err != nil {
		return report, err
	}
	if err := compareCopy(ctx, source, url, config.Data, digests, before, &report); err != nil {
		return report, err
	}
	return report, postgres.FinishCopy(ctx, url)
}

// copyTables fills the target.
func copyTables(ctx context.Context, source *sqlite.Store, url string, report *CopyReport, progress func(CopiedTable)) (digests map[string][32]byte, err error) {
	target, err := postgres.BeginCopy(ctx, url, postgres.Options{})
	if errors.Is(err, postgres.ErrNotEmpty) {
		return nil, fmt.Errorf("%w: %w", ErrCopyRefused, err)
	}
	if err != nil {
		return nil, err
	}
	digests = map[string][32]byte{}
	err = source.CopyOut(ctx, func(t ledger.CopyTable) error {
		digest, err := target.Put(ctx, t)
		if err != nil {
			return err
		}
		digests[t.Name] = digest.Sum()
		done := CopiedTable{t.Name, digest.Rows}
		report.Tables = append(report.Tables, done)
		progress(done)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, target.Abort(ctx))
	}
	return digests, target.End(ctx)
}

// compareCopy reads the target as a whole and compares it with what was put in.
func compareCopy(ctx context.Context, source *sqlite.Store, url, dir string, digests map[string][32]byte, before audit.Verdict, report *CopyReport) (err error) {
	target, err := postgres.Open(ctx, url, postgres.Options{ReadOnly: true, UnfinishedCopy: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	report.To = target.Path()
	if err := source.CopyOut(ctx, func(t ledger.CopyTable) error {
		digest, err := target.Digest(ctx, t)
		if err == nil && digest.Sum() != digests[t.Name] {
			err = fmt.Errorf("%w: %s is not what was copied", ErrCopyRefused, t.Name)
		}
		return err
	}); err != nil {
		return err
	}
	after, err := audited(ctx, target, dir)
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	was, err := json.Marshal(before, json.Deterministic(true))
	if err != nil {
		return err
	}
	is, err := json.Marshal(after, json.Deterministic(true))
	if err != nil {
		return err
	}
	if string(was) != string(is) {
		return fmt.Errorf("%w: the audit log was %s, the copy is %s", ErrCopyRefused, was, is)
	}
	report.Entries, report.HeadHash, report.RootHash, report.SealedThrough = after.Size, after.HeadHash, after.RootHash, after.SealedThrough
	var r auditlog.Reconciliation
	if err := json.Unmarshal(after.Reconciliation, &r); err != nil {
		return err
	}
	report.Records, report.DriftPercent = r.Records, r.DriftPercent
	return nil
}

// audited verifies the log of a store with the key in a data directory, and
// computes every total from it again.
func audited(ctx context.Context, store auditlog.Store, dir string) (audit.Verdict, error) {
	log, err := openAuditLog(ctx, store, dir)
	if err != nil {
		return audit.Verdict{}, err
	}
	check := auditlog.Check{Reconcile: true}
	if log.VKey() != "" {
		if check.Keys, err = audit.ParseKeys(log.VKey()); err != nil {
			return audit.Verdict{}, err
		}
	}
	verdict, err := log.Verify(ctx, check)
	if err == nil && !verdict.Valid {
		err = fmt.Errorf("%w: %w", ErrCopyRefused, &audit.IntegrityError{Verdict: verdict})
	}
	return verdict, err
}
