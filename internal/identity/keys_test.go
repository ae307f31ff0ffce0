package identity

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

func text(b byte) string { return base64.StdEncoding.EncodeToString(public(b)) }

func dir(files map[string]string) fs.FS {
	out := fstest.MapFS{}
	for name, content := range files {
		out[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return out
}

func TestReadKeys(t *testing.T) {
	keys, err := ReadKeys(dir(map[string]string{
		"a.pub":            "# of a\n\n" + text(1) + "\n  " + strings.TrimRight(text(11), "=") + "\r\n",
		"team.billing.pub": text(3),
		"list.json": fmt.Sprintf(`{"keys":[{"agent":"urn:asap:agent:b","public_key":%q,"kid":"k","not_before":"2027-01-01T00:00:00Z","not_after":"2028-01-01T00:00:00Z"},
			{"agent":"urn:asap:agent:b","public_key":%q,"compromised":true}]}`, text(2), text(22)),
		"README.md":       "no keys here",
		".hidden.pub":     "x",
		"folder.pub/file": "x",
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, k := range keys {
		got[fmt.Sprintf("%s %s %t %t", k.Agent, k.ID, k.NotBefore.IsZero(), k.Compromised)]++
	}
	for _, want := range []string{"urn:asap:agent:a  true false", "urn:asap:agent:team:billing  true false", "urn:asap:agent:b k false false", "urn:asap:agent:b  true true"} {
		if got[want] == 0 {
			t.Errorf("no key %q in %v", want, got)
		}
	}
	if len(keys) != 5 {
		t.Errorf("%d keys", len(keys))
	}
	if keys, err := ReadKeys(fstest.MapFS{}); err != nil || len(keys) != 0 {
		t.Errorf("an empty directory: %v, %v", keys, err)
	}
	if keys, err := ReadKeys(failing{fs.ErrNotExist, ""}); err != nil || keys != nil {
		t.Errorf("no directory: %v, %v", keys, err)
	}
}

// failing is a directory, and a file, that cannot be read.
type failing struct {
	err  error
	name string
}

func (f failing) Open(name string) (fs.File, error) {
	if f.name == "" || name == f.name {
		return nil, f.err
	}
	return fstest.MapFS{f.name: {Data: []byte("x")}}.Open(name)
}

func TestBadKeyFiles(t *testing.T) {
	small := base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))
	noPoint := base64.StdEncoding.EncodeToString(append([]byte{2}, make([]byte, 31)...))
	entry := func(members string) string { return `{"keys":[{` + members + `}]}` }
	for name, content := range map[string][2]string{
		"not a key":          {"a.pub", "hello"},
		"no key":             {"a.pub", "# nothing\n"},
		"small order":        {"a.pub", small},
		"no point":           {"a.pub", noPoint},
		"name is no agent's": {"A b.pub", text(1)},
		"name of three":      {"a.b.c.pub", text(1)},
		"not JSON":           {"k.json", "{"},
		"no list":            {"k.json", "{}"},
		"unknown member":     {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","public_key":%q,"expires":1`, text(1)))},
		"duplicate member":   {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","agent":"urn:asap:agent:b","public_key":%q`, text(1)))},
		"agent line feed":    {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a\n","public_key":%q`, text(1)))},
		"no key in a list":   {"k.json", entry(`"agent":"urn:asap:agent:a"`)},
		"small in a list":    {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","public_key":%q`, small))},
		"time":               {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","public_key":%q,"not_before":"soon"`, text(1)))},
		"times turned round": {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","public_key":%q,"not_before":"2028-01-01T00:00:00Z","not_after":"2027-01-01T00:00:00Z"`, text(1)))},
		"long kid":           {"k.json", entry(fmt.Sprintf(`"agent":"urn:asap:agent:a","public_key":%q,"kid":%q`, text(1), strings.Repeat("k", 129)))},
		"huge":               {"a.pub", strings.Repeat("#", maxKeyFileBytes+1)},
	} {
		keys, err := ReadKeys(dir(map[string]string{content[0]: content[1]}))
		if !errors.Is(err, ErrKeyFile) || !strings.Contains(err.Error(), content[0]) {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
	}
	broken := errors.New("input/output error")
	for _, f := range []fs.FS{failing{broken, ""}, failing{broken, "a.pub"}} {
		if _, err := ReadKeys(f); !errors.Is(err, broken) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// manifests is a source of keys beside the files.
type manifests []Key

func (m manifests) AgentKeys(asap.AgentURN) []Key { return m }

// A rotation: both keys are good while they overlap, each alone before and
// after, and one that leaked never.
func TestRotation(t *testing.T) {
	now := at(0)
	ring := NewKeyRing(func() time.Time { return now }, manifests{
		{Agent: agentA, Public: public(33)}, // leaked, still in the registered manifest
		{Agent: agentA, Public: public(5)},
		{Agent: agentB, Public: public(6)},                    // another's
		{Agent: agentA, Public: make(ed25519.PublicKey, 32)},  // of small order
		{Agent: agentA, Public: public(7), Compromised: true}, // said by the source itself
	})
	if err := ring.Replace([]Key{
		{Agent: agentA, ID: "old", Public: public(1), NotAfter: at(200)},
		{Agent: agentA, ID: "new", Public: public(2), NotBefore: at(100)},
		{Agent: agentB, Public: public(33), Compromised: true},
	}); err != nil {
		t.Fatal(err)
	}
	epochs := map[uint64]bool{}
	for _, step := range []struct {
		at   int64
		want []byte
	}{{99, []byte{1, 5}}, {100, []byte{1, 2, 5}}, {199, []byte{1, 2, 5}}, {200, []byte{2, 5}}} {
		now = at(step.at)
		var want []ed25519.PublicKey
		for _, b := range step.want {
			want = append(want, public(b))
		}
		if got := ring.AgentKeys(agentA); !slices.EqualFunc(got, want, func(a, b ed25519.PublicKey) bool { return a.Equal(b) }) {
			t.Errorf("at %d: %d keys, want %d", step.at, len(got), len(want))
		}
		epochs[ring.Epoch(agentA)] = true
	}
	if len(epochs) != 3 {
		t.Errorf("%d epochs, want 3: one for each set of keys", len(epochs))
	}
	var _ delegation.KeySource = ring
	if got := ring.Keys(agentA, "new"); len(got) != 2 || got[0].ID != "new" { // and the one without a name
		t.Errorf("%+v", got)
	}
	if ring.Len() != 1 || len(ring.Agents()) != 1 || ring.Agents()[0] != agentA {
		t.Errorf("agents: %v", ring.Agents())
	}
	if err := ring.Replace([]Key{{Agent: agentA, Public: make(ed25519.PublicKey, 32)}}); err == nil || ring.Len() != 1 {
		t.Errorf("a key of small order: %v", err)
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add("a.pub", text(1))
	f.Add("k.json", `{"keys":[{"agent":"urn:asap:agent:a","public_key":"`+text(1)+`"}]}`)
	f.Fuzz(func(t *testing.T, name, content string) {
		if !fs.ValidPath(name) || strings.Contains(name, "/") {
			return
		}
		keys, err := ReadKeys(dir(map[string]string{name: content}))
		if err != nil {
			return
		}
		for _, k := range keys {
			if _, err := asap.ParseAgentURN(string(k.Agent)); err != nil || delegation.CheckKey(k.Public) != nil {
				t.Errorf("%q %q: %+v", name, content, k)
			}
		}
	})
}
