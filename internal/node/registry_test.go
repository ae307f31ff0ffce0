package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
)

const sellerURN = "urn:asap:agent:seller"

func registryKey(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{'r', n})
	return ed25519.NewKeyFromSeed(seed[:])
}

// change sends a PUT or DELETE of the registry with a bearer token.
func change(t testing.TB, n *Node, token, method, id, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.URL()+"/registry/agents/"+id, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// mint makes a token with which the agent says who it is.
func mint(t testing.TB, n *Node, key ed25519.PrivateKey, id asap.AgentURN) string {
	t.Helper()
	tokens, err := client.NewKeyTokens(key, id, asap.AgentURN(n.config.URN), 0)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tokens.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func signedFor(t testing.TB, id asap.AgentURN, version string, key ed25519.PrivateKey) string {
	t.Helper()
	signed, err := asap.SignManifest(&asap.Manifest{ID: id, Name: "Seller", Version: version, TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: "0.1", Skills: []asap.Skill{{ID: "sell"}}}, Endpoints: asap.Endpoint{ASAP: "https://seller.example/asap"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed.AppendJSON(nil))
}

// An agent the operator registered is known by its pinned key: it proves itself
// with it, over a restart too, and is found through the client. What loses its
// place in the registry proves nothing any more.
func TestRegisteredAgents(t *testing.T) {
	for _, memory := range []bool{false, true} {
		t.Run(map[bool]string{true: "memory", false: "file"}[memory], func(t *testing.T) { testRegisteredAgents(t, memory) })
	}
}

func testRegisteredAgents(t *testing.T, memory bool) {
	dir := t.TempDir()
	config := testConfig(dir)
	if memory {
		config.Store = "memory:"
	}
	config.Metering.Prices = []PriceConfig{
		{Agent: sellerURN, List: jsontext.Value(`{"usd_per_task":"0.02"}`)},
		{Agent: counterURN, List: jsontext.Value(`{"usd_per_task":"0.02","usd_per_second":"1","max_usd_per_task":"0.5"}`)},
	}
	var runs atomic.Int64
	n, stop := start(t, config, counter(&runs))
	operator, err := ReadOperatorToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	one, two := registryKey(1), registryKey(2)
	if status, body := change(t, n, mint(t, n, one, sellerURN), http.MethodPut, sellerURN, signedFor(t, sellerURN, "1.0", one)); status != http.StatusUnauthorized {
		t.Fatalf("nobody knows the agent yet: %d %s", status, body)
	}
	if status, body := change(t, n, operator, http.MethodPut, sellerURN, signedFor(t, sellerURN, "1.0", one)); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}

	find := func(n *Node, q client.AgentQuery) string {
		t.Helper()
		r, err := client.NewRegistry(n.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		found, err := r.Find(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, a := range found {
			ids = append(ids, string(a.ID))
		}
		return strings.Join(ids, " ")
	}
	for q, want := range map[client.AgentQuery]string{
		{Sort: "name"}:         counterURN + " " + sellerURN, // the node's own agent too
		{Skill: "sell"}:        sellerURN,
		{MaxPriceUSD: "0.02"}:  sellerURN,
		{Sort: "-price"}:       counterURN + " " + sellerURN,
		{MinAvailability: "1"}: "",
	} {
		if got := find(n, q); got != want {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
	r, err := client.NewRegistry(n.URL(), client.WithTrustedKeys(asap.PublicKeyOf(one)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if d, err := r.Discover(t.Context(), sellerURN); err != nil || !d.Trusted || d.Manifest.Version != "1.0" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := r.Discover(t.Context(), counterURN); err != nil || d.Signed != nil || d.Manifest.ID != counterURN {
		t.Errorf("the node's own: %+v, %v", d, err)
	}

	// With its own key it brings the next ones, each found at once by everybody.
	var group sync.WaitGroup
	for i := range 8 {
		id := asap.AgentURN(fmt.Sprintf("%s:w%d", sellerURN, i))
		group.Go(func() {
			key := registryKey(byte(100 + i))
			if status, body := change(t, n, operator, http.MethodPut, string(id), signedFor(t, id, "1.0", key)); status != http.StatusCreated {
				t.Errorf("%d %s", status, body)
			}
			for v := 1; v <= 5; v++ {
				version := fmt.Sprintf("1.%d", v)
				if status, body := change(t, n, mint(t, n, key, id), http.MethodPut, string(id), signedFor(t, id, version, key)); status != http.StatusOK {
					t.Errorf("%d %s", status, body)
				}
				if body := get(t, n, "/registry/agents/"+string(id)); !bytes.Contains(body, []byte(`"version":"`+version+`"`)) {
					t.Errorf("%s %s is not found at once", id, version)
				}
			}
		})
	}
	group.Wait()
	if status, body := change(t, n, mint(t, n, one, sellerURN), http.MethodPut, sellerURN+":w1", signedFor(t, sellerURN+":w1", "9.0", one)); status != http.StatusForbidden {
		t.Errorf("somebody else's: %d %s", status, body)
	}
	if status, body := change(t, n, mint(t, n, one, sellerURN), http.MethodPut, sellerURN, signedFor(t, sellerURN, "2.0", two)); status != http.StatusForbidden || !strings.Contains(body, "manifest_key") {
		t.Errorf("another key: %d %s", status, body)
	}

	if !memory {
		stop()
		n, stop = start(t, config, counter(&runs))
	}
	token := mint(t, n, one, sellerURN)
	if status, body := change(t, n, token, http.MethodPut, sellerURN, signedFor(t, sellerURN, "1.0", one)); status != http.StatusOK || !strings.Contains(body, "unchanged") {
		t.Errorf("after a restart: %d %s", status, body)
	}
	if got := find(n, client.AgentQuery{}); len(strings.Fields(got)) != 10 {
		t.Errorf("after a restart: %q", got)
	}

	// A key that got out is listed, and is good for nothing, whoever brings it.
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf(`{"keys":[{"agent":%q,"public_key":%q,"compromised":true}]}`, sellerURN, asap.EncodePublicKey(asap.PublicKeyOf(two)))
	if err := os.WriteFile(filepath.Join(dir, "keys", "lost.json"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.callers.reload(); err != nil {
		t.Fatal(err)
	}
	if status, body := change(t, n, operator, http.MethodPut, sellerURN, signedFor(t, sellerURN, "2.0", two)); status != http.StatusForbidden || !strings.Contains(body, "manifest_key") {
		t.Errorf("a compromised key: %d %s", status, body)
	}

	if status, body := change(t, n, token, http.MethodDelete, sellerURN, ""); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := change(t, n, token, http.MethodPut, sellerURN, signedFor(t, sellerURN, "3.0", one)); status != http.StatusUnauthorized {
		t.Errorf("the key of a removed agent still proves something: %d", status)
	}
	if _, err := r.Agent(t.Context(), counterURN); memory && err != nil {
		t.Error(err)
	}
	again, err := client.NewRegistry(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Agent(t.Context(), sellerURN); !errors.Is(err, client.ErrAgentNotFound) {
		t.Error(err)
	}
	stop()
	if memory {
		return
	}
	reader, err := OpenReadOnly(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for range 2 { // the index is made once
		if index, err := registryOf(reader.store)(t.Context()); err != nil || index.Len() != 8 {
			t.Errorf("of the stopped node: %v", err)
		}
	}
}
