package storetest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/registry"
)

func agentKey(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{n})
	return ed25519.NewKeyFromSeed(seed[:])
}

// manifestOf is a signed manifest that somebody brings.
func manifestOf(t testing.TB, by registry.Caller, id asap.AgentURN, version string, key byte) *registry.Registration {
	t.Helper()
	signed, err := asap.SignManifest(&asap.Manifest{ID: id, Name: "Agent", Version: version, TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: "0.1"}, Endpoints: asap.Endpoint{ASAP: "https://a.example/asap"}}, agentKey(key))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.NewRegistration(by, id, signed.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// listing is what a store holds of the registry, in short.
func (r *rig) listing() []string {
	r.t.Helper()
	agents, err := r.store.Agents(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	lines := make([]string, len(agents))
	for i, a := range agents {
		name := "-"
		if a.Manifest != nil {
			name = a.Manifest.Version
		} else if a.Entry != nil {
			name = a.Entry.Name
		}
		lines[i] = fmt.Sprintf("%s %s %q %s removed=%t keys=%d seq=%d %s", strings.TrimPrefix(string(a.ID), "urn:asap:agent:"), a.Source, a.Version, name,
			a.Removed(), len(a.Keys), a.Seq, a.UpdatedAt.Sub(epoch)-a.RegisteredAt.Sub(epoch))
	}
	return lines
}

func testRegistry(t *testing.T, b Backend) {
	var told []registry.Agent
	r := start(t, b, func(r *rig) { r.agents = func(a []registry.Agent) { told = append(told, a...) } })
	boss, self := registry.Caller{Operator: true}, registry.Caller{Agent: worker}

	first, err := r.ledger.Register(r.ctx, manifestOf(t, self, worker, "1.0", 1))
	if err != nil || first.Change != registry.Registered || len(told) != 1 || told[0].Seq != first.Receipt.Seq {
		t.Fatalf("%+v, %v; told %d", first, err, len(told))
	}
	if again, err := r.ledger.Register(r.ctx, manifestOf(t, self, worker, "1.0", 1)); err != nil || again.Change != registry.Unchanged || again.Receipt != (ledger.Receipt{}) {
		t.Errorf("again: %+v, %v", again, err)
	}
	refusals := map[asap.Code]*registry.Registration{
		asap.CodeManifestKey:      manifestOf(t, self, worker, "1.1", 2),
		asap.CodeManifestOutdated: manifestOf(t, self, worker, "0.9", 1),
	}
	size := len(r.log())
	for code, in := range refusals {
		var coded *asap.Error
		if _, err := r.ledger.Register(r.ctx, in); !errors.As(err, &coded) || coded.Code != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	if len(r.log()) != size || len(told) != 1 {
		t.Error("a refusal left something behind")
	}
	r.clock.advance(time.Minute)
	if got, err := r.ledger.Register(r.ctx, manifestOf(t, boss, worker, "1.1", 2)); err != nil || got.Change != registry.Updated {
		t.Fatalf("%+v, %v", got, err)
	}
	replace := manifestOf(t, boss, worker, "1.1", 2)
	replace.ReplaceKeys = true
	if got, err := r.ledger.Register(r.ctx, replace); err != nil || got.Change != registry.Updated {
		t.Fatalf("%+v, %v", got, err)
	}
	want := []string{`worker signed "1.1" 1.1 removed=false keys=1 seq=4 1m0s`}
	if diff := cmp.Diff(want, r.listing()); diff != "" {
		t.Error(diff)
	}

	lite, err := registry.ParseLite([]byte(`{"agents":[
		{"id":"` + worker + `","name":"W","description":"","endpoints":{},"asap_version":"1"},
		{"id":"` + alice + `","name":"A","description":"","endpoints":{"http":"h"},"asap_version":"1"},
		{"id":"` + bob + `","name":"B","description":"","endpoints":{},"asap_version":"1"}, {}]}`))
	if err != nil {
		t.Fatal(err)
	}
	in, err := r.ledger.ImportAgents(r.ctx, lite)
	if err != nil || in.Registered != 2 || in.Kept != 1 || in.Unchanged != 0 || in.Receipt.EntryID == "" {
		t.Fatalf("%+v, %v", in, err)
	}
	if in, err := r.ledger.ImportAgents(r.ctx, lite); err != nil || in.Registered != 0 || in.Unchanged != 2 || in.Kept != 1 || in.Receipt.EntryID != "" {
		t.Errorf("again: %+v, %v", in, err)
	}
	if _, err := r.ledger.Unregister(r.ctx, registry.Removal{By: self, ID: worker}); err != nil {
		t.Error(err)
	}
	for _, id := range []asap.AgentURN{worker, "urn:asap:agent:unknown"} {
		if _, err := r.ledger.Unregister(r.ctx, registry.Removal{By: boss, ID: id}); !errors.Is(err, registry.ErrUnknownAgent) {
			t.Errorf("%s is not there: %v", id, err)
		}
	}
	// An agent takes over what was imported of it.
	if got, err := r.ledger.Register(r.ctx, manifestOf(t, registry.Caller{Agent: bob}, bob, "0.1", 3)); err != nil || got.Change != registry.Registered {
		t.Errorf("%+v, %v", got, err)
	}
	want = []string{
		`alice imported "" A removed=false keys=0 seq=6 0s`,
		`bob signed "0.1" 0.1 removed=false keys=1 seq=8 0s`,
		`worker signed "1.1" - removed=true keys=1 seq=7 1m0s`,
	}
	if diff := cmp.Diff(want, r.listing()); diff != "" {
		t.Error(diff)
	}
	var types []string
	for _, e := range r.log() {
		types = append(types, e.Type+" "+strings.TrimPrefix(e.Actor, "urn:asap:agent:")+" "+strings.TrimPrefix(e.Subject, "urn:asap:agent:"))
	}
	if diff := cmp.Diff([]string{
		"agent.registered worker worker", "agent.key_added worker worker",
		"agent.updated operator worker", "agent.key_added operator worker",
		"agent.updated operator worker", "agent.key_removed operator worker",
		"registry.imported operator registry", "agent.removed worker worker",
		"agent.registered bob bob", "agent.key_added bob bob",
	}, types); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if entries, _, err := r.store.ListAudit(r.ctx, audit.Filter{Subject: worker}, 0, 100); err != nil || len(entries) != 7 || *entries[0].RowHash != sha256.Sum256(first.Agent.Document) {
		t.Errorf("%d entries about the agent, %v", len(entries), err)
	}
	r.check(false)
	if !b.Forgets {
		before := r.listing()
		r.restart()
		if diff := cmp.Diff(before, r.listing()); diff != "" {
			t.Errorf("after a restart:\n%s", diff)
		}
		var coded *asap.Error
		if _, err := r.ledger.Register(r.ctx, manifestOf(t, self, worker, "1.0", 2)); !errors.As(err, &coded) || coded.Code != asap.CodeManifestOutdated {
			t.Errorf("an older manifest after removal and restart: %v", err)
		}
	}
}

// Of many manifests at once, one is the newest, and who is told last is told it.
func testRegistryRace(t *testing.T, b Backend) {
	var mu sync.Mutex
	last := map[asap.AgentURN]registry.Agent{}
	r := start(t, b, func(r *rig) {
		r.agents = func(agents []registry.Agent) {
			mu.Lock()
			defer mu.Unlock()
			for _, a := range agents {
				if have, ok := last[a.ID]; ok && have.Seq >= a.Seq {
					t.Errorf("told of entry %d after %d", a.Seq, have.Seq)
				}
				last[a.ID] = a
			}
		}
	})
	var group sync.WaitGroup
	for v := range 40 {
		group.Go(func() {
			in := manifestOf(t, registry.Caller{Agent: worker}, worker, fmt.Sprintf("1.%d", v), 1)
			got, err := r.ledger.Register(r.ctx, in)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && got.Change != registry.Unchanged && last[worker].Seq < got.Agent.Seq {
				t.Errorf("answered before the index was told")
			}
		})
	}
	group.Wait()
	agents, err := r.store.Agents(r.ctx)
	if err != nil || len(agents) != 1 || agents[0].Version != "1.39" || last[worker].Version != "1.39" {
		t.Errorf("%v, %v", r.listing(), err)
	}
	if !slices.EqualFunc(agents[0].Keys, last[worker].Keys, func(a, b registry.Key) bool { return a.Public.Equal(b.Public) }) {
		t.Error("the keys differ")
	}
	r.check(false)
}
