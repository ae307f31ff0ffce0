package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Reader serves the REST interface of a data directory without running a node:
// everything that reads, to the person whose directory it is.
type Reader struct {
	store Store
	api   http.Handler
}

// OpenReadOnly opens the ledger in a data directory, whether a node serves from
// it or not, and changes nothing in it.
func OpenReadOnly(ctx context.Context, dir string) (*Reader, error) {
	store, err := place{file: filepath.Join(dir, LedgerFile)}.openReadOnly(ctx)
	if elsewhere, e := os.ReadFile(filepath.Join(dir, ElsewhereFile)); errors.Is(err, fs.ErrNotExist) && e == nil {
		return nil, fmt.Errorf("the ledger of %s is not in it but in %s: ask the running node, with --node URL", dir, strings.TrimSpace(string(elsewhere)))
	}
	if err != nil {
		return nil, fmt.Errorf("no ledger can be read in %s: %w", dir, err)
	}
	log, err := openAuditLog(ctx, store, dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no audit log can be read in %s: %w", dir, err), store.Close())
	}
	mux := http.NewServeMux()
	httpapi.New(httpapi.Config{
		Usage: store, Ledger: noLedger{}, Audit: store, AuditLog: log, AuditVKey: log.VKey(), DelegationReader: store, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		// Whoever can read the files is the operator.
		Authenticate: func(*http.Request) (httpapi.Caller, error) { return httpapi.Caller{Role: httpapi.Operator}, nil },
		Registry:     httpapi.RegistryConfig{Index: registryOf(store)},
		SLA:          watchOf(store, time.Now),
	}).Routes(mux)
	return &Reader{store: store, api: mux}, nil
}

// Handler returns the REST interface. It may be used concurrently.
func (r *Reader) Handler() http.Handler { return r.api }

// Close closes the ledger.
func (r *Reader) Close() error { return r.store.Close() }

// noLedger refuses to write to a data directory that is only read.
type noLedger struct{}

var errReadOnly = fmt.Errorf("%w: the data directory is only read; give the URL of a running node", ledger.ErrUnavailable)

func (noLedger) Record(context.Context, []ledger.Report, ledger.Mode) ([]ledger.Recorded, error) {
	return nil, errReadOnly
}

func (noLedger) Correct(context.Context, ledger.Correction) (ledger.Recorded, error) {
	return ledger.Recorded{}, errReadOnly
}

func (noLedger) Purge(context.Context, time.Time) (ledger.Purged, error) {
	return ledger.Purged{}, errReadOnly
}

// forget applies retention: raw records and answers beyond their time go, and
// tasks whose time is long over are settled as lost.
func (n *Node) forget(ctx context.Context) error {
	keep, now := n.keep.Load(), n.now()
	var errs []error
	if keep.Retention > 0 {
		purged, err := n.ledger.Purge(ctx, now.Add(-time.Duration(keep.Retention)))
		if purged.Records > 0 {
			n.log.Info("usage records purged", "records", purged.Records, "before", purged.Before)
		}
		errs = append(errs, err)
	}
	if keep.AnswerKeep > 0 {
		_, err := n.ledger.DropAnswers(ctx, now.Add(-time.Duration(keep.AnswerKeep)))
		errs = append(errs, err)
	}
	errs = append(errs, n.pruneAudit(ctx), n.judge.forgetRevocations(ctx))
	lost, err := n.ledger.ExpireDue(ctx)
	if lost > 0 {
		n.log.Warn("tasks whose outcome is not known were charged their ceiling", "tasks", lost)
	}
	return errors.Join(append(errs, err)...)
}

// lostAnswer is what a retry is told of a task whose node died while it ran:
// nobody knows how far it came, so it is not run again under the same envelope.
func lostAnswer(t *ledger.Task, ids *asap.IDSource, now time.Time) []byte {
	request := asap.Envelope{ID: t.EnvelopeID, ASAPVersion: asap.DefaultASAPVersion, Sender: t.Consumer, Recipient: t.Agent, TraceID: optional(t.TraceID)}
	payload := asap.TaskResponse{
		TaskID: t.ID, Status: asap.Failed,
		Result: []byte(`{"error":{"code":"` + string(asap.CodeTaskIndeterminate) +
			`","message":"the node stopped while the task ran; how far it came is not known. Send it again under a new envelope id if it may run twice."}}`),
	}
	return request.Answer(ids.NewEnvelopeID(now), now, t.Agent, asap.KindTaskResponse.Type(), payload.AppendJSON(nil)).AppendJSON(nil)
}

// prices of a reload reach the ledger and the ceilings of admissions together.
func (n *Node) setPrices(book *metering.PriceBook) {
	n.prices.Store(book)
	n.ledger.SetPrices(book)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
