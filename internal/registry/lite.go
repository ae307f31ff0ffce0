package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
)

// LiteVersion is the version of the Lite Registry format that is written.
const LiteVersion = "1.0"

const (
	// MaxEntries bounds one Lite Registry document.
	MaxEntries = 100_000
	// maxSkipped bounds how many of the entries that were left out are named.
	maxSkipped = 100
	// Bounds of an entry, in characters and in number.
	maxName, maxText, maxSkills, maxAddresses = 256, 4096, 256, 16
)

// Address is one endpoint of an entry: "http", "ws", "manifest" or another name,
// and a URL as the source wrote it.
type Address struct{ Name, URL string }

// Entry is one agent of a Lite Registry document (core.md 21).
type Entry struct {
	ID          asap.AgentURN
	Name        string
	Description string
	Endpoints   []Address // by name, those known by convention first
	Skills      []string
	ASAPVersion string
}

// AppendJSON appends the six members v1.3.0 knows, and no other.
func (e *Entry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendText(dst, string(e.ID))
	dst = append(dst, `,"name":`...)
	dst = appendText(dst, e.Name)
	dst = append(dst, `,"description":`...)
	dst = appendText(dst, e.Description)
	dst = append(dst, `,"endpoints":{`...)
	for i, a := range e.Endpoints {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, a.Name), ':')
		dst = appendText(dst, a.URL)
	}
	dst = append(dst, `},"skills":[`...)
	for i, s := range e.Skills {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, s)
	}
	dst = append(dst, `],"asap_version":`...)
	dst = appendText(dst, e.ASAPVersion)
	return append(dst, '}')
}

// Address returns the endpoint of that name, or "".
func (e *Entry) Address(name string) string {
	for _, a := range e.Endpoints {
		if a.Name == name {
			return a.URL
		}
	}
	return ""
}

func appendText(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // what is not UTF-8 was refused when it was read
	return dst
}

// AppendLite appends a Lite Registry document as v1.3.0 reads it. changedAt is
// when what it says changed last.
func AppendLite(dst []byte, changedAt time.Time, entries []Entry) []byte {
	dst = append(dst, `{"version":"`+LiteVersion+`","updated_at":"`...)
	dst = changedAt.UTC().AppendFormat(dst, "2006-01-02T15:04:05.999999Z07:00")
	dst = append(dst, `","agents":[`...)
	for i := range entries {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = entries[i].AppendJSON(dst)
	}
	return append(dst, `]}`...)
}

// Skipped is an entry of a document that was left out, and why.
type Skipped struct {
	Index  int
	Reason string
}

// Lite is a Lite Registry document that was read.
type Lite struct {
	Digest  [32]byte // SHA-256 of the document
	Entries []Entry  // each agent once
	// Skipped is how many entries were left out; SkippedFirst are the first
	// hundred of them.
	Skipped      int
	SkippedFirst []Skipped
}

// ErrNotLite reports a document that is no Lite Registry at all.
var ErrNotLite = errors.New(`not a Lite Registry: an object whose member "agents" is a list is needed`)

// ParseLite reads a Lite Registry document as it is found in the wild: members
// nobody knows are ignored, and an entry that cannot be used is left out and
// counted instead of spoiling the whole. Of two entries of one agent the first
// counts. The error is ErrNotLite.
func ParseLite(document []byte) (*Lite, error) {
	var root struct {
		Agents *[]jsontext.Value `json:"agents"`
	}
	if jsontext.Value(bytes.TrimSpace(document)).Kind() != '{' {
		return nil, ErrNotLite
	}
	if err := json.Unmarshal(document, &root, jsontext.AllowDuplicateNames(true)); err != nil || root.Agents == nil {
		return nil, ErrNotLite
	}
	if len(*root.Agents) > MaxEntries {
		return nil, fmt.Errorf("%w: more than %d agents", ErrNotLite, MaxEntries)
	}
	lite := &Lite{Digest: sha256.Sum256(document)}
	seen := map[asap.AgentURN]bool{}
	for i, v := range *root.Agents {
		e, err := parseEntry(v)
		if err == nil && seen[e.ID] {
			err = errors.New("the agent is listed twice")
		}
		if err != nil {
			if lite.Skipped++; lite.Skipped <= maxSkipped {
				lite.SkippedFirst = append(lite.SkippedFirst, Skipped{i, err.Error()})
			}
			continue
		}
		seen[e.ID] = true
		lite.Entries = append(lite.Entries, *e)
	}
	return lite, nil
}

// parseEntry reads one entry. Errors do not repeat what was sent.
func parseEntry(v jsontext.Value) (*Entry, error) {
	var in struct {
		ID          *string            `json:"id"`
		Name        *string            `json:"name"`
		Description *string            `json:"description"`
		Endpoints   *map[string]string `json:"endpoints"`
		Skills      []string           `json:"skills"`
		ASAPVersion *string            `json:"asap_version"`
	}
	if v.Kind() != '{' {
		return nil, errors.New("it is not an object")
	}
	if err := json.Unmarshal(v, &in); err != nil {
		return nil, errors.New("a member stands twice or has the wrong type")
	}
	if in.ID == nil || in.Name == nil || in.Description == nil || in.Endpoints == nil || in.ASAPVersion == nil {
		return nil, errors.New("id, name, description, endpoints and asap_version are needed")
	}
	id, err := asap.ParseAgentURN(*in.ID)
	if err != nil {
		return nil, fmt.Errorf("id: %w", err)
	}
	e := &Entry{ID: id, Name: *in.Name, Description: *in.Description, Skills: in.Skills, ASAPVersion: *in.ASAPVersion}
	for name, url := range *in.Endpoints {
		e.Endpoints = append(e.Endpoints, Address{name, url})
	}
	slices.SortFunc(e.Endpoints, func(a, b Address) int {
		return strings.Compare(conventional(a.Name), conventional(b.Name))
	})
	return e, e.bounded()
}

// conventional sorts the names of the convention before others.
func conventional(name string) string {
	switch name {
	case "http", "ws":
		return "0" + name
	case "manifest":
		return "1"
	}
	return "2" + name
}

// bounded refuses an entry that is larger than an honest one.
func (e *Entry) bounded() error {
	over := utf8.RuneCountInString(e.Name) > maxName || utf8.RuneCountInString(e.Description) > maxText ||
		len(e.Skills) > maxSkills || len(e.Endpoints) > maxAddresses || len(e.ASAPVersion) > maxName
	for _, s := range e.Skills {
		over = over || utf8.RuneCountInString(s) > maxName
	}
	for _, a := range e.Endpoints {
		over = over || len(a.Name) > maxName || len(a.URL) > maxText
	}
	if over {
		return errors.New("a text or a list is too long")
	}
	return nil
}

// Apply decides what an imported entry does to what is held of its agent; have
// is nil if that is nothing. It never takes the place of a signed manifest, nor
// of one that was removed: for an imported entry nobody answers.
func (e *Entry) Apply(have *Agent, now time.Time) Outcome {
	document := jsontext.Value(e.AppendJSON(nil))
	next := Agent{ID: e.ID, Source: Imported, Content: sha256.Sum256(document), Document: document, Entry: e, RegisteredAt: now, UpdatedAt: now}
	switch {
	case have == nil, have.Removed() && have.Source == Imported:
		return Outcome{Change: Registered, Agent: next}
	case have.Source != Imported || have.Content == next.Content:
		return Outcome{Change: Unchanged, Agent: *have}
	}
	next.RegisteredAt = have.RegisteredAt
	return Outcome{Change: Updated, Agent: next}
}
