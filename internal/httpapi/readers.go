package httpapi

import (
	"context"
	"io"
	"iter"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// UsageReader reads what the ledger committed. Every method sees one consistent
// state and never an uncommitted record; all are safe for concurrent use. The
// records of one filter are the same whichever method reads them, so that every
// total is the same too (I3): corrections are listed, exported and summed like
// other records, which their sign makes right.
type UsageReader interface {
	// ListUsage returns the records of the page in ascending (Timestamp,
	// Sequence).
	ListUsage(ctx context.Context, f metering.Filter, page metering.Page) ([]metering.Record, error)

	// Rollups yields the sums of the selected records, told apart by dims. Rows
	// come in any order and a key may come more than once; members that dims
	// does not ask for are zero. With ByHour a row holds records of one
	// UTC hour, with ByDay those of one UTC day.
	//
	// Whole hours are read from rollups; records are read for the hours that
	// Start or End cut, and for a filter on a task. If those were purged the
	// error is metering.ErrPurged.
	Rollups(ctx context.Context, f metering.Filter, dims metering.Dims) iter.Seq2[metering.RollupRow, error]

	// ExportUsage yields every selected record in ascending (Timestamp,
	// Sequence) in constant memory. The first error ends it. Records that are
	// committed after the start need not appear.
	ExportUsage(ctx context.Context, f metering.Filter) iter.Seq2[metering.Record, error]

	// UsageStats describes the store as a whole.
	UsageStats(ctx context.Context) (metering.Stats, error)
}

// AuditReader reads the audit log. Its methods are safe for concurrent use and
// serve what the stored octets say, not what index columns say.
type AuditReader interface {
	// ListAudit returns at most limit matching entries in ascending Seq, from
	// position from on (0 is the first entry), and the size of the log they were
	// read at.
	ListAudit(ctx context.Context, f audit.Filter, from int64, limit int) (entries []audit.Entry, size int64, err error)

	// AuditEntry returns the entry with that id, or an error that is
	// audit.ErrNoEntry.
	AuditEntry(ctx context.Context, id string) (audit.Entry, error)
}

// AuditLog answers for the audit log as a whole; *auditlog.Log is one. Its
// methods are safe for concurrent use and read one consistent state each.
type AuditLog interface {
	// Verify checks the log; see [auditlog.Log.Verify].
	Verify(ctx context.Context, c auditlog.Check) (audit.Verdict, error)
	// Export writes the log in constant memory.
	Export(ctx context.Context, w io.Writer, format audit.Format) error
	// Checkpoint returns the newest signed note, nil if there is none yet.
	Checkpoint(ctx context.Context) ([]byte, error)
	// ProveInclusion proves an entry under a size; 0 is the newest checkpoint.
	ProveInclusion(ctx context.Context, seq, size int64) (auditlog.Inclusion, error)
	// ProveConsistency proves one size under another; 0 is the newest checkpoint.
	ProveConsistency(ctx context.Context, older, newer int64) (auditlog.Consistency, error)
}
