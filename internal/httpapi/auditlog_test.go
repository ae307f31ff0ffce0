package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
)

// chain makes entries: task by task started by c and completed by a.
func chain(t *testing.T, tasks int) (entries []audit.Entry) {
	t.Helper()
	head := audit.GenesisHead("test.example.com")
	entropy := rand.NewChaCha8([32]byte{})
	for i := range tasks {
		for _, ev := range []audit.Event{
			{Type: audit.TaskStarted, Actor: "urn:asap:agent:c", Subject: fmt.Sprint("t", i), Parties: []string{"urn:asap:agent:a", "urn:asap:agent:c"}},
			{Type: audit.TaskCompleted, Actor: "urn:asap:agent:a", Subject: fmt.Sprint("t", i), Details: jsontext.Value(`{"n":1}`)},
		} {
			e, next, err := audit.Append(head, noon.Add(time.Duration(i)*time.Minute), ev, entropy)
			if err != nil {
				t.Fatal(err)
			}
			entries, head = append(entries, e), next
		}
	}
	return entries
}

func TestAuditLogIsReadInPages(t *testing.T) {
	n := newNode(t, nil)
	n.entries = chain(t, 5)
	whole := n.get("/audit/logs").is(200)
	if whole["count"] != 10.0 || whole["as_of_size"] != 10.0 || whole["next_cursor"] != nil {
		t.Errorf("%v", whole)
	}
	var seqs []any
	next := any("")
	for next != nil {
		target := "/audit/logs?limit=3"
		if next != "" {
			target += "&cursor=" + next.(string)
		}
		v := n.get(target).is(200)
		for _, e := range v["data"].([]any) {
			seqs = append(seqs, e.(map[string]any)["seq"])
		}
		next = v["next_cursor"]
	}
	if fmt.Sprint(seqs) != "[0 1 2 3 4 5 6 7 8 9]" {
		t.Errorf("%v", seqs)
	}
	for target, want := range map[string]float64{
		"?event_type=task.started": 5, "?actor=urn:asap:agent:a": 5, "?subject=t1": 2, "?start=2026-02-20T12:03:00Z": 4,
		"?end=2026-02-20T12:01:00Z": 2, "?subject=t1&actor=urn:asap:agent:c": 1,
	} {
		if v := n.get("/audit/logs" + target).is(200); v["count"] != want {
			t.Errorf("%s: %v", target, v["count"])
		}
	}
	if v := n.do("urn:asap:agent:c", "GET", "/audit/logs", "").is(200); v["count"] != 5.0 {
		t.Errorf("a party sees %v", v["count"])
	}
	negative, err := encodeCursor("audit", -1)
	if err != nil {
		t.Fatal(err)
	}
	n.get("/audit/logs?cursor="+negative).refuses(422, asap.CodeInvalidCursor)
}

func TestAnAuditEntryComesWithItsOctets(t *testing.T) {
	n := newNode(t, nil)
	n.entries = chain(t, 1)
	e := n.entries[1]
	v := n.get("/audit/logs/" + e.ID).is(200)
	octets, err := base64.StdEncoding.DecodeString(v["octets"].(string))
	if err != nil || !bytes.Equal(octets, e.Octets) {
		t.Fatalf("%v: %s", err, octets)
	}
	if sum := sha256.Sum256(octets); v["hash"] != hex.EncodeToString(sum[:]) || v["event_type"] != "task.completed" || v["previous_hash"] != hex.EncodeToString(e.PreviousHash[:]) {
		t.Errorf("%v", v)
	}
	n.do("urn:asap:agent:a", "GET", "/audit/logs/"+e.ID, "").is(200)
	n.do("urn:asap:agent:c", "GET", "/audit/logs/"+e.ID, "").refuses(404, asap.CodeNotFound)
	n.do("urn:asap:agent:a", "GET", "/audit/logs/"+n.entries[0].ID, "").is(200) // as a party
	n.get("/audit/logs/nope").refuses(404, asap.CodeNotFound)
}
