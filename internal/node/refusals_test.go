package node

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// Refused tasks of authenticated callers are entries if the configuration says
// so; those of others never are, nothing else changes, and the books agree.
func TestRefusalsAreRecorded(t *testing.T) {
	const owner = "urn:asap:agent:task-owner"
	for _, on := range []bool{false, true} {
		n := startSecured(t, false, func(c *Config) { c.Audit.Refusals = on })
		bearer := []string{"Authorization", n.token(t, owner)}
		ask := func(body, want string, header ...string) {
			t.Helper()
			if _, answer := n.request(t, "", http.MethodPost, "/asap", body, header...); !strings.Contains(answer, want) {
				t.Errorf("want %s: %s", want, answer)
			}
		}
		unknown := func(sender string) string {
			return strings.Replace(rpc(sender), `"skill_id":"count"`, `"skill_id":"fly"`, 1)
		}
		ask(rpc(owner), `"completed"`, bearer...)
		ask(unknown(owner), string(asap.CodeSkillUnknown), bearer...)
		ask(unknown(callerURN), string(asap.CodeSkillUnknown)) // from this machine, unverified
		ask(strings.Replace(rpc(owner), `"conversation_id":"c",`, "", 1), "error", bearer...)
		ask(strings.Replace(unknown(owner), `TaskRequest`, `StateQuery`, 1), "error", bearer...) // no task
		entries, _, err := n.store.ListAudit(t.Context(), audit.Filter{Type: audit.TaskRefused}, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if !on {
			if len(entries) != 0 {
				t.Errorf("%d refusals were recorded unasked", len(entries))
			}
			n.stop()
			continue
		}
		if len(entries) != 2 {
			t.Fatalf("%d refusals were recorded, want 2", len(entries))
		}
		e := entries[0]
		if e.Actor != owner || e.Subject == "" || len(e.Parties) != 2 ||
			string(e.Details) != `{"agent":"`+counterURN+`","code":"`+string(asap.CodeSkillUnknown)+`","consumer":"`+owner+`","skill_id":"fly"}` {
			t.Errorf("the entry is %+v %s", e, e.Details)
		}
		if seen, _, err := n.store.ListAudit(t.Context(), audit.Filter{Type: audit.TaskRefused, Party: owner}, 0, 10); err != nil || len(seen) != 2 {
			t.Errorf("the caller finds %d of them, %v", len(seen), err)
		}
		n.stop()
		store, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(n.dir, "data", "asap.db"), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		checkAuditLog(t, store, filepath.Join(n.dir, "data"))
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}
