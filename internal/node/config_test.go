package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// load is Load and Validate on a file with that text.
func load(t *testing.T, text string, environ ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "asap.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, environ)
	if err == nil {
		err = c.Validate()
	}
	return c, err
}

func TestDefaultsAreValid(t *testing.T) {
	c, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if !c.Loopback() {
		t.Error("the defaults listen beyond loopback")
	}
}

// Beyond loopback a node needs TLS, or the word that somebody else has it.
func TestBeyondLoopback(t *testing.T) {
	for _, text := range []string{
		"listen: 0.0.0.0:80\ninsecure: true\n",
		"listen: 0.0.0.0:80\ntls: {certificate: a.pem, key: b.pem}\n",
		"listen: \":80\"\ntls: {certificate: a.pem, key: b.pem, client_ca: c.pem, client_required: true}\nauth: {oidc: {issuer: i, audience: \"a b\", jwks_url: \"https://example.com/jwks\", algorithms: \"ES256, EdDSA\"}}\n",
	} {
		if c, err := load(t, text); err != nil || c.Loopback() {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Environment goes over the file, the file over the defaults.
func TestPrecedence(t *testing.T) {
	c, err := load(t, "listen: 127.0.0.1:1\ndata: from-file\nlimits:\n  task_timeout: 2d\n",
		"ASAP_LISTEN=127.0.0.1:2", "ASAP_LIMITS_RUNNING_TASKS=7", "ASAP_STORAGE_BACKEND=sqlite", "HOME=/")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Override([]string{"limits.running_tasks=8"}); err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:2" || c.Data != "from-file" || c.Limits.RunningTasks != 8 || c.Limits.TaskTimeout.String() != "2d" {
		t.Errorf("got %+v", c)
	}
}

// Whatever is wrong is said with its place and what would be right.
func TestBadConfiguration(t *testing.T) {
	for _, c := range []struct {
		name, text, env, want string
	}{
		{"unknown key", "listen: 127.0.0.1:1\nlisten_addr: x\n", "", "line 2: unknown key listen_addr"},
		{"unknown nested key", "limits:\n  tasks: 1\n", "", "line 2: unknown key tasks"},
		{"duplicate key", "data: a\ndata: b\n", "", "line 2"},
		{"two documents", "data: a\n---\ndata: b\n", "", "more than one YAML document"},
		{"not YAML", "\tdata: a\n", "", "cannot start any token"},
		{"a list", "- a\n", "", "line 1"},
		{"wrong type", "limits:\n  running_tasks: many\n", "", "line 2"},
		{"bad duration", "limits:\n  task_timeout: soon\n", "", `"soon" is not a duration`},
		{"not an address", "listen: nowhere\n", "", "listen: \"nowhere\" is not HOST:PORT"},
		{"beyond loopback", "listen: 0.0.0.0:80\n", "", "reachable from other machines"},
		{"beyond loopback, all", "listen: \":80\"\n", "", "reachable from other machines"},
		{"certificate without a key", "tls: {certificate: a.pem}\n", "", "tls.certificate: a certificate and its key go together"},
		{"client authority alone", "tls: {client_ca: a.pem}\n", "", "tls.client_ca"},
		{"client certificates of nobody", "tls: {certificate: a.pem, key: b.pem, client_required: true}\n", "", "tls.client_required"},
		{"half a provider", "auth: {oidc: {issuer: \"https://i\"}}\n", "", "auth.oidc: issuer, audience and jwks_url go together"},
		{"keys over plain http", "auth: {oidc: {issuer: i, audience: a, jwks_url: \"http://example.com/jwks\"}}\n", "", "an https URL is needed"},
		{"a password in a URL", "auth: {oidc: {issuer: i, audience: a, jwks_url: \"https://u:hunter2@example.com/jwks\"}}\n", "", "without a password"},
		{"symmetric algorithm", "auth: {oidc: {issuer: i, audience: a, jwks_url: \"https://example.com/jwks\", algorithms: RS256 HS256}}\n", "", "\"HS256\" is not one of"},
		{"public URL", "public_url: agents.example.com\n", "", "public_url: \"agents.example.com\" is not a URL"},
		{"no data", "data: \"\"\n", "", "data: a directory is needed"},
		{"store", "store: mysql://user:hunter2@host/db\n", "", "mysql:…\" is neither"},
		{"urn", "urn: node\n", "", "urn: agent URN must look like"},
		{"agent urn", "agents: [{urn: x, kind: echo}]\n", "", "agents[0].urn"},
		{"agent kind", "agents: [{urn: \"urn:asap:agent:a\", kind: oracle}]\n", "", "is not a built-in agent"},
		{"agent twice", "agents: [{urn: \"urn:asap:agent:a\", kind: echo}, {urn: \"urn:asap:agent:a\", kind: echo}]\n", "", "listed twice"},
		{"body limit", "limits: {request_bytes: 3}\n", "", "limits.request_bytes"},
		{"room for no body", "limits: {held_bytes: 1024}\n", "", "limits.held_bytes"},
		{"connections", "limits: {connections: -1}\n", "", "limits.connections"},
		{"no tasks", "limits: {running_tasks: 0}\n", "", "limits.running_tasks"},
		{"no time", "limits: {task_timeout: \"0\"}\n", "", "limits.task_timeout"},
		{"negative rate", "limits: {websocket_per_second: -1}\n", "", "limits.websocket_per_second"},
		{"log level", "log: {level: loud}\n", "", "log.level"},
		{"log format", "log: {format: xml}\n", "", "log.format"},
		{"price amount", "metering: {prices: [{agent: \"urn:asap:agent:a\", usd_per_task: cheap}]}\n", "", "usd_per_task"},
		{"price member", "metering: {prices: [{agent: \"urn:asap:agent:a\", usd_per_tusk: 1}]}\n", "", "usd_per_tusk"},
		{"price agent", "metering: {prices: [{usd_per_task: 1}]}\n", "", "metering.prices[0].agent"},
		{"price shape", "metering: {prices: [7]}\n", "", "a price list is a mapping"},
		{"price list in a list", "metering: {prices: [{agent: \"urn:asap:agent:a\", usd_per_task: [1]}]}\n", "", "names and amounts only"},
		{"environment value", "", "ASAP_LIMITS_RUNNING_TASKS=many", "ASAP_LIMITS_RUNNING_TASKS: \"many\" is not a whole number"},
		{"environment bool", "", "ASAP_INSECURE=perhaps", "neither true nor false"},
		{"environment number", "", "ASAP_LIMITS_WEBSOCKET_PER_SECOND=NaN", "is not a number"},
		{"environment unknown", "", "ASAP_LIMITS_RUNNING_TASK=1", "ASAP_LIMITS_RUNNING_TASK: unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.text, c.env)
			if err == nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an ErrConfig with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, ErrConfig) {
		t.Errorf("a missing file: %v", err)
	}
	var c Config
	for _, pair := range []string{"listen", "nonsense=1"} {
		if err := c.Override([]string{pair}); !errors.Is(err, ErrConfig) {
			t.Errorf("Override(%q): %v", pair, err)
		}
	}
}

// What asap config prints is a file that says the same.
func TestYAMLReadsBack(t *testing.T) {
	want, err := load(t, `
store: "memory:"
metering:
  retention: 90d
  prices:
    - agent: urn:asap:agent:a
      usd_per_task: 0.010000001
      skills: {echo: {usd_per_second: "0.5"}}
`)
	if err != nil {
		t.Fatal(err)
	}
	text, err := want.YAML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := load(t, string(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	again, err := got.YAML()
	if err != nil || string(again) != string(text) {
		t.Errorf("not the same after reading back (%v):\n%s\n%s", err, text, again)
	}
	if !strings.Contains(string(text), "0.010000001") || !strings.Contains(string(text), "# address and port to serve on") {
		t.Errorf("the file lacks a price or a comment:\n%s", text)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listen: 127.0.0.1:1\nlimits: {task_timeout: 2d}\n")
	f.Add("metering: {prices: [{agent: \"urn:asap:agent:a\", usd_per_task: 1, skills: {x: {models: {y: {usd_per_second: 2}}}}}]}\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := Defaults()
		if parseYAML([]byte(text), &c) != nil || c.Validate() != nil {
			return
		}
		out, err := c.YAML()
		if err != nil {
			t.Fatalf("a valid configuration cannot be written: %v", err)
		}
		again := Config{}
		if err := yaml.Unmarshal(out, &again); err != nil {
			t.Fatalf("what was written does not read back: %v\n%s", err, out)
		}
	})
}
