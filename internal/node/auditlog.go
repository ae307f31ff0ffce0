package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// Files of the audit log in the data directory.
const (
	VKeyFile   = "node.vkey"         // the log's verifier key, for auditors; public
	SignerFile = "audit-signer.json" // what was signed last; see [audit.SignerFile]
)

// AuditConfig says how long the audit log is kept.
type AuditConfig struct {
	Retention Duration `yaml:"retention" reload:"yes" doc:"how long audit entries are kept; 0 keeps them; what is pruned stays provable by its checkpoint"`
	Refusals  bool     `yaml:"refusals" reload:"yes" doc:"record refused tasks of authenticated callers as task.refused, each in an entry of its own; a caller that keeps asking makes the log grow as fast as its rate limit allows"`
}

// openAudit makes what the audit log has outside the store: the verifier key
// and, for an empty log, the signer's memory. It comes before the first entry.
func (n *Node) openAudit(ctx context.Context) error {
	signer, err := audit.NewSigner(n.Origin(), n.key)
	if err != nil {
		return fmt.Errorf("%w: urn: %w", ErrConfig, err)
	}
	vkey, err := audit.FormatVKey(n.Origin(), n.key.Public().(ed25519.PublicKey))
	if err != nil {
		return fmt.Errorf("%w: urn: %w", ErrConfig, err)
	}
	if n.auditKeys, err = audit.ParseKeys(vkey); err != nil {
		return err
	}
	at, err := n.config.storePlace()
	if err != nil {
		return err
	}
	var memory auditlog.Memory = &passingMemory{}
	create := memory.(*passingMemory).create
	if !at.memory() {
		file := audit.NewSignerFile(filepath.Join(n.config.Data, SignerFile))
		memory, create = file, file.Create
	}
	n.auditLog = auditlog.New(n.store, n.Origin(), vkey, memory)
	if err := auditlog.Begin(ctx, n.auditLog, create); err != nil {
		return err
	}
	state, err := memory.Load()
	if err == nil && len(state.Note) > 0 {
		if _, err := n.auditKeys.Open(state.Note); err != nil {
			return fmt.Errorf("%s is not the key that signed the audit log (%s): put the right one back: %w", KeyFile, SignerFile, err)
		}
	}
	n.sealer = auditlog.NewSealer(n.auditLog, checkpointWriter{n}, n.log, signer)
	if at.postgres != "" {
		if err := n.sameLog(ctx); err != nil {
			return err
		}
		n.sealer.Share(n.auditKeys, create)
	}
	return writePublic(filepath.Join(n.config.Data, VKeyFile), vkey+"\n")
}

// sameLog tells whether the log of a store that nodes share was begun under this
// node's name and is signed with its key.
func (n *Node) sameLog(ctx context.Context) error {
	first, _, err := n.store.ListAudit(ctx, audit.Filter{}, 0, 1)
	if err != nil {
		return err
	}
	if len(first) > 0 && first[0].Seq == 0 && first[0].PreviousHash != audit.GenesisHash(n.Origin()) {
		return fmt.Errorf("%w: the log in %s was begun under another urn than %s: nodes that share a store have one name", ErrConfig, n.store.Path(), n.Origin())
	}
	note, err := n.auditLog.Checkpoint(ctx)
	if err != nil || len(note) == 0 {
		return err
	}
	if _, err := n.auditKeys.Open(note); err != nil {
		return fmt.Errorf("%w: the log in %s is signed with another key than this node's: nodes that share a store have one key and one urn; give this one the same, as node_key or %s: %w",
			ErrConfig, n.store.Path(), KeyFile, err)
	}
	return nil
}

// checkpointWriter is the node's ledger, which is opened after the sealer is made.
type checkpointWriter struct{ n *Node }

// StoreCheckpoint implements auditlog.Writer.
func (w checkpointWriter) StoreCheckpoint(ctx context.Context, c audit.CheckpointRow, nodes ...audit.TreeNode) error {
	return w.n.ledger.StoreCheckpoint(ctx, c, nodes...)
}

// writePublic replaces a file that everybody may read, if it says something else.
func writePublic(path, text string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == text {
		return nil
	}
	if err := WriteSecret(path, []byte(text), true); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) //nolint:gosec // a public key
}

// passingMemory is the signer's memory of a log that ends with the process.
type passingMemory struct {
	mu    sync.Mutex
	state *audit.SignerState // guarded by mu
}

func (m *passingMemory) create(s audit.SignerState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = &s
	return nil
}

// Load implements auditlog.Memory.
func (m *passingMemory) Load() (audit.SignerState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		return audit.SignerState{}, fs.ErrNotExist
	}
	return *m.state, nil
}

// Swap implements auditlog.Memory.
func (m *passingMemory) Swap(old, next audit.SignerState) error {
	if err := old.Allows(next); err != nil {
		return err
	}
	return m.create(next)
}

// auditMetrics shows the state of the log to whoever watches the node.
func (n *Node) auditMetrics() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "asap_audit_integrity_alarm",
			Help: "1 if the audit log is not what was signed; nothing is sealed then."}, func() float64 {
			if n.sealer.Alarm() != nil {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "asap_audit_sealed_entries",
			Help: "Entries of the audit log that the newest checkpoint covers."}, func() float64 { return float64(n.sealer.Sealed()) }),
	}
}

// Acts of an operator that are entries of the log (RecordAct): what they are
// about is the subject.
const (
	actConfig    = audit.ConfigChanged
	actRetention = audit.RetentionChanged
	actKeys      = "keys.changed"
)

// keyState is what the log was last told of the keys that say who calls.
type keyState struct {
	mu        sync.Mutex
	files     [sha256.Size]byte
	rotations int
}

// recordKeys logs that keys which say who calls have become others: the files of
// agents' keys, or the operator's token. What was changed while the node was
// stopped is what it starts with.
func (n *Node) recordKeys(ctx context.Context) error {
	n.keysKnown.mu.Lock()
	defer n.keysKnown.mu.Unlock()
	files, rotations := n.callers.keys.Fingerprint(), n.callers.auth.Operator.Rotations()
	if files != n.keysKnown.files {
		err := n.RecordAct(ctx, actKeys, "agent-keys", map[string]any{
			"from": hex.EncodeToString(n.keysKnown.files[:]), "to": hex.EncodeToString(files[:]), "agents": n.callers.keys.Len(),
		})
		if err != nil {
			return err
		}
		n.keysKnown.files = files
	}
	if rotations != n.keysKnown.rotations {
		if err := n.RecordAct(ctx, actKeys, "operator-token", map[string]any{"rotations": rotations - n.keysKnown.rotations}); err != nil {
			return err
		}
		n.keysKnown.rotations = rotations
	}
	return nil
}

// RecordAct logs an act of the operator, durably: a change of configuration,
// retention or keys (audit.KeyRotated). details is marshalled as a JSON object.
// An act that cannot be logged must not take effect.
func (n *Node) RecordAct(ctx context.Context, kind, subject string, details map[string]any) error {
	text, err := json.Marshal(details, json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = n.ledger.Append(ctx, audit.Event{Type: kind, Actor: n.config.URN, Subject: subject, Details: text})
	return err
}

// recordReload logs what a reload changes: names of settings with their values,
// for price lists their hashes.
func (n *Node) recordReload(ctx context.Context, next *Config) error {
	changed := map[string]any{}
	retention := map[string]any{}
	before := n.reloadable()
	for _, s := range next.Settings() {
		if old, ok := before[s.Key]; ok && old != s.Value {
			change := map[string]any{"from": old, "to": s.Value}
			if strings.HasSuffix(s.Key, ".retention") || strings.HasSuffix(s.Key, "_keep") {
				retention[s.Key] = change
			} else {
				changed[s.Key] = change
			}
		}
	}
	if old, now := priceNames(n.keep.Load()), priceNames(&next.Metering); old != now {
		changed["metering.prices"] = map[string]any{"from": old, "to": now}
	}
	if len(retention) > 0 {
		if err := n.RecordAct(ctx, actRetention, "retention", retention); err != nil {
			return err
		}
	}
	if len(changed) > 0 {
		return n.RecordAct(ctx, actConfig, "configuration", changed)
	}
	return nil
}

// reloadable are the settings in force that a reload can change.
func (n *Node) reloadable() map[string]string {
	now := n.config
	now.Metering, now.Audit, now.Log.Level = *n.keep.Load(), *n.auditKeep.Load(), strings.ToLower(n.level.Level().String())
	values := map[string]string{}
	for _, s := range now.Settings() {
		if s.Reload {
			values[s.Key] = s.Value
		}
	}
	return values
}

// priceNames lists price lists by agent and hash.
func priceNames(m *MeteringConfig) string {
	c := Config{Metering: *m}
	book, err := c.priceBook()
	if err != nil {
		return ""
	}
	var names []string
	for _, p := range m.Prices {
		if list := book.At(asap.AgentURN(p.Agent), time.Now()); list != nil {
			names = append(names, p.Agent+" "+list.Hash())
		}
	}
	return strings.Join(names, ", ")
}

// pruneAudit applies the retention of the audit log: at most once an hour, and
// once a day if entries are kept for more than a week.
func (n *Node) pruneAudit(ctx context.Context) error {
	keep := time.Duration(n.auditKeep.Load().Retention)
	if keep <= 0 {
		return nil
	}
	step := time.Hour
	if keep > 7*24*time.Hour {
		step = 24 * time.Hour
	}
	return n.pruneAuditBefore(ctx, n.now().UTC().Add(-keep).Truncate(step), "audit.retention="+Duration(keep).String())
}

func (n *Node) pruneAuditBefore(ctx context.Context, before time.Time, policy string) error {
	if err := n.sealer.Alarm(); err != nil {
		return fmt.Errorf("audit log not pruned: %w", err)
	}
	pruned, err := auditlog.Prune(ctx, n.auditLog, n.auditKeys, n.ledger, before, policy)
	if pruned > 0 {
		n.log.Info("audit entries pruned", "entries", pruned, "before", before)
	}
	return err
}

// openAuditLog is the audit log of a data directory that is only read.
func openAuditLog(ctx context.Context, store auditlog.Store, dir string) (*auditlog.Log, error) {
	memory := audit.NewSignerFile(filepath.Join(dir, SignerFile))
	vkey := ReadVKey(dir)
	origin, err := originOf(ctx, store, memory, vkey)
	if err != nil {
		return nil, err
	}
	if named, _, err := audit.ParseVKey(vkey); err != nil || named != origin {
		vkey = ""
	}
	return auditlog.New(store, origin, vkey, memory), nil
}

// ReadVKey returns the verifier key that a node left in its data directory, ""
// if there is none.
func ReadVKey(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, VKeyFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// originOf finds the name of a log: what the signer remembers, or the key, or
// the newest checkpoint says; else the default. A wrong name can only make a log
// invalid: entry 0 and every checkpoint are bound to it.
func originOf(ctx context.Context, store auditlog.Store, memory auditlog.Memory, vkey string) (string, error) {
	state, err := memory.Load()
	if err == nil {
		return state.Origin, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if origin, _, err := audit.ParseVKey(vkey); err == nil {
		return origin, nil
	}
	note, err := auditlog.New(store, "", "", nil).Checkpoint(ctx)
	if err != nil {
		return "", err
	}
	if c, err := audit.ParseCheckpoint(note); err == nil {
		return c.Origin, nil
	}
	return Defaults().URN, nil
}

// chain verifies the audit log as the command audit verify does, by the node's
// own key, and compares the clock with the newest checkpoint's entry.
func (d *doctor) chain(ctx context.Context, store Store) {
	log, err := openAuditLog(ctx, store, d.config.Data)
	if err != nil {
		d.say("audit log", Fail, "cannot be verified: %v", err)
		return
	}
	check := auditlog.Check{Require: audit.None} // a new log has no checkpoint for a second
	if log.VKey() != "" {
		if check.Keys, err = audit.ParseKeys(log.VKey()); err != nil {
			d.say("audit log", Fail, "%s: %v", VKeyFile, err)
			return
		}
	}
	switch missing, entries, err := auditlog.MemoryMissing(ctx, log); {
	case err != nil:
		d.say(SignerFile, Fail, "%v", err)
	case missing:
		d.say(SignerFile, Fail, "is missing beside a log of %d entries: nothing is signed without it. Put it back from a backup; if it is lost, run asap audit adopt", entries)
	}
	verdict, err := log.Verify(ctx, check)
	switch {
	case err != nil:
		d.say("audit log", Fail, "cannot be verified: %v", err)
		return
	case !verdict.Valid:
		d.say("audit log", Fail, "is not valid: %s; run asap audit verify", verdict.Reason)
	case len(verdict.Guards.Missing) > 0:
		d.say("audit log", Warn, "%d entries are whole, but guards of the database are gone: %s", verdict.Size, strings.Join(verdict.Guards.Missing, ", "))
	case len(log.VKey()) > 0 && !verdict.Assurance.AtLeast(audit.Sealed):
		d.say("audit log", Warn, "chain of %d entries is whole, but no checkpoint is signed yet; a node signs one about a second after it starts", verdict.Size)
	default:
		d.say("audit log", OK, "chain of %d entries is whole, assurance %s, sealed through %d", verdict.Size, verdict.Assurance, verdict.SealedThrough)
	}
	last := time.UnixMicro(verdict.End.Head.TimestampUS)
	if skew := last.Sub(d.now); skew > time.Second {
		d.say("clock", Fail, "the newest entry is %s ahead of this machine's clock", skew.Round(time.Second))
	} else {
		d.say("clock", OK, "%s, not behind the ledger", d.now.UTC().Format(time.RFC3339))
	}
}
