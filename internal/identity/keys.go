package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// Key is one public key of an agent. An agent may have several at once, so that
// it can change to a new one while the old one is still in use.
type Key struct {
	Agent  asap.AgentURN
	ID     string // kid, or ""
	Public ed25519.PublicKey
	// NotBefore and NotAfter bound its use; zero means no bound. It is good at
	// NotBefore and no longer at NotAfter.
	NotBefore, NotAfter time.Time
	// Compromised keys prove nothing, from whichever source they come and for
	// whichever agent.
	Compromised bool
}

// KeySource knows keys of agents beside the files, such as those of registered
// manifests. It is used by many goroutines at once, answers from memory and does
// not block.
type KeySource interface {
	AgentKeys(agent asap.AgentURN) []Key
}

// KeyRing holds the keys of agents: those of files, which are replaced as a
// whole, and those of other sources. It is a [delegation.KeySource] too, and
// safe for concurrent use.
type KeyRing struct {
	now    func() time.Time
	others []KeySource
	sound  soundKeys // of the others: those of files were checked when they came

	mu          sync.RWMutex
	files       map[asap.AgentURN][]Key
	compromised map[string]bool // by the bytes of the public key
}

// NewKeyRing returns a ring without files. now is the clock.
func NewKeyRing(now func() time.Time, others ...KeySource) *KeyRing {
	return &KeyRing{now: now, others: others}
}

// Replace makes keys those of the files, in place of the ones before. A key that
// cannot be one is an error and changes nothing.
func (r *KeyRing) Replace(keys []Key) error {
	files, compromised := make(map[asap.AgentURN][]Key), make(map[string]bool)
	for _, k := range keys {
		if err := delegation.CheckKey(k.Public); err != nil {
			return fmt.Errorf("key of %s: %w", k.Agent, err)
		}
		if k.Compromised {
			compromised[string(k.Public)] = true
			continue
		}
		files[k.Agent] = append(files[k.Agent], k)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files, r.compromised = files, compromised
	return nil
}

// Fingerprint returns a SHA-256 over the keys of the files: equal for equal keys
// in any order.
func (r *KeyRing) Fingerprint() [sha256.Size]byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var lines []string
	for agent, keys := range r.files {
		for _, k := range keys {
			lines = append(lines, fmt.Sprintf("%q %q %x %d %d", agent, k.ID, k.Public, k.NotBefore.UnixNano(), k.NotAfter.UnixNano()))
		}
	}
	for key := range r.compromised {
		lines = append(lines, fmt.Sprintf("compromised %x", key))
	}
	slices.Sort(lines)
	return sha256.Sum256([]byte(strings.Join(lines, "\n")))
}

// Len returns how many agents have keys in the files.
func (r *KeyRing) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.files)
}

// all returns the keys of agent that are good at now.
func (r *KeyRing) all(agent asap.AgentURN, now time.Time) []Key {
	if r == nil {
		return nil
	}
	var good []Key
	r.mu.RLock()
	defer r.mu.RUnlock()
	take := func(keys []Key, checked bool) {
		for _, k := range keys {
			if k.Agent != agent || k.Compromised || r.compromised[string(k.Public)] || now.Before(k.NotBefore) ||
				(!k.NotAfter.IsZero() && !now.Before(k.NotAfter)) || !checked && !r.sound.check(k.Public) {
				continue
			}
			good = append(good, k)
		}
	}
	take(r.files[agent], true)
	for _, other := range r.others {
		take(other.AgentKeys(agent), false)
	}
	return good
}

// usable returns the keys with which a token of agent that names keyID may be
// signed. A key without an ID may be named in any way.
func (r *KeyRing) usable(agent asap.AgentURN, keyID string, now time.Time) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, k := range r.all(agent, now) {
		if keyID == "" || k.ID == "" || k.ID == keyID {
			keys = append(keys, k.Public)
		}
	}
	return keys
}

// Compromised tells whether the files list the key as one that proves nothing.
func (r *KeyRing) Compromised(key ed25519.PublicKey) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.compromised[string(key)]
}

// AgentKeys returns the public keys of agent that are good now.
func (r *KeyRing) AgentKeys(agent asap.AgentURN) []ed25519.PublicKey {
	return r.usable(agent, "", r.now())
}

// Keys implements [delegation.KeySource].
func (r *KeyRing) Keys(issuer asap.AgentURN, keyID string) []delegation.Key {
	var keys []delegation.Key
	for _, k := range r.all(issuer, r.now()) {
		if keyID == "" || k.ID == "" || k.ID == keyID {
			keys = append(keys, delegation.Key{ID: k.ID, Public: k.Public})
		}
	}
	return keys
}

// Epoch implements [delegation.KeySource]: it is a digest of the keys that are
// good now.
func (r *KeyRing) Epoch(issuer asap.AgentURN) uint64 {
	h := fnv.New64a()
	for _, k := range r.all(issuer, r.now()) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(k.ID))))
		h.Write([]byte(k.ID))
		h.Write(k.Public)
	}
	return h.Sum64()
}

// ErrKeyFile marks a file of keys that cannot be used.
var ErrKeyFile = errors.New("key file")

// Bounds of a directory of keys.
const (
	maxKeyFileBytes = 16 << 20
	maxKeys         = 1_000_000
)

// ReadKeys reads the keys in the top directory of dir, in the order of the file
// names:
//
//   - NAME.pub, or NAME.PART.pub for the agent urn:asap:agent:NAME:PART, holds a
//     public key in base64 on each line; empty lines and those that begin with #
//     do not count.
//   - FILE.json holds {"keys": [{"agent", "public_key", "kid", "not_before",
//     "not_after", "compromised"}]}; all but the first two may be left out.
//
// Other files are not looked at. A file that holds anything else is an error
// that wraps ErrKeyFile and names it. A directory that does not exist holds no
// keys.
func ReadKeys(dir fs.FS) ([]Key, error) {
	entries, err := fs.ReadDir(dir, ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, entry := range entries {
		name := entry.Name()
		var parse func(name string, text []byte) ([]Key, error)
		switch path.Ext(name) {
		case ".pub":
			parse = parsePublicKeys
		case ".json":
			parse = parseKeyList
		}
		if parse == nil || entry.IsDir() || strings.HasPrefix(name, ".") {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Size() > maxKeyFileBytes {
			return nil, fmt.Errorf("%w %s: more than %d bytes", ErrKeyFile, name, maxKeyFileBytes)
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		more, err := parse(name, text)
		if err != nil {
			return nil, fmt.Errorf("%w %s: %w", ErrKeyFile, name, err)
		}
		if keys = append(keys, more...); len(keys) > maxKeys {
			return nil, fmt.Errorf("%w %s: more than %d keys", ErrKeyFile, name, maxKeys)
		}
	}
	return keys, nil
}

func parsePublicKeys(name string, text []byte) ([]Key, error) {
	agent, err := asap.ParseAgentURN("urn:asap:agent:" + strings.ReplaceAll(strings.TrimSuffix(name, ".pub"), ".", ":"))
	if err != nil {
		return nil, fmt.Errorf("its name is not that of an agent: %w", err)
	}
	var keys []Key
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		public, err := readPublicKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		keys = append(keys, Key{Agent: agent, Public: public})
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return keys, nil
}

func readPublicKey(text string) (ed25519.PublicKey, error) {
	public, err := asap.ParsePublicKey(text)
	if err != nil {
		return nil, err
	}
	return public, delegation.CheckKey(public)
}

func parseKeyList(_ string, text []byte) ([]Key, error) {
	var file struct {
		Keys []struct {
			Agent       string    `json:"agent"`
			PublicKey   string    `json:"public_key"`
			ID          string    `json:"kid"`
			NotBefore   time.Time `json:"not_before,omitzero"`
			NotAfter    time.Time `json:"not_after,omitzero"`
			Compromised bool      `json:"compromised"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if file.Keys == nil {
		return nil, errors.New("it has no member keys")
	}
	keys := make([]Key, 0, len(file.Keys))
	for i, e := range file.Keys {
		agent, err := asap.ParseAgentURN(e.Agent)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		public, err := readPublicKey(e.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if len(e.ID) > delegation.MaxTokenIDBytes {
			return nil, fmt.Errorf("keys[%d]: kid has more than %d bytes", i, delegation.MaxTokenIDBytes)
		}
		if !e.NotAfter.IsZero() && !e.NotBefore.Before(e.NotAfter) {
			return nil, fmt.Errorf("keys[%d]: not_after is not after not_before", i)
		}
		keys = append(keys, Key{Agent: agent, ID: e.ID, Public: public, NotBefore: e.NotBefore, NotAfter: e.NotAfter, Compromised: e.Compromised})
	}
	return keys, nil
}

// Agents returns the agents that have keys in the files, for a report.
func (r *KeyRing) Agents() []asap.AgentURN {
	r.mu.RLock()
	defer r.mu.RUnlock()
	agents := make([]asap.AgentURN, 0, len(r.files))
	for agent := range maps.Keys(r.files) {
		agents = append(agents, agent)
	}
	return agents
}
