package node

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// Nodes of one store are given their key and the operator token; their data
// directories make none.
func TestGivenSecrets(t *testing.T) {
	first, _ := start(t, testConfig(t.TempDir()), counter(new(atomic.Int64)))
	key := filepath.Join(first.config.Data, KeyFile)
	token, err := ReadOperatorToken(first.config.Data)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ASAP_TEST_OPERATOR", token)
	c := testConfig(t.TempDir())
	c.NodeKey, c.Operator = "file:"+key, "env:ASAP_TEST_OPERATOR"
	second, _ := start(t, c, counter(new(atomic.Int64)))
	if !second.key.Equal(first.key) {
		t.Error("the second node has a key of its own")
	}
	for _, name := range []string{KeyFile, OperatorTokenFile} {
		if _, err := os.Stat(filepath.Join(c.Data, name)); err == nil {
			t.Error(name, "was made beside the one that is given")
		}
	}
	if !second.callers.auth.Operator.Is(token, time.Now()) {
		t.Error("the given token is not the operator's")
	}
	good := 0
	for _, f := range Diagnose(t.Context(), c, time.Now()) {
		if (f.Check == "node_key" || f.Check == "operator_token") && f.Severity == OK {
			good++
		}
	}
	if good != 2 {
		t.Error("the doctor found", good)
	}
	for _, bad := range []struct{ key, token string }{
		{"file:" + filepath.Join(c.Data, "nothing"), ""}, {"env:ASAP_TEST_OPERATOR", ""}, {"plain", ""}, {"", "env:ASAP_TEST_NOTHING"}, {"", "file:" + key + "x"},
	} {
		wrong := testConfig(t.TempDir())
		wrong.NodeKey, wrong.Operator = bad.key, bad.token
		if n, err := Open(t.Context(), wrong, Options{}); err == nil {
			t.Error("opened with", bad, n.Close())
		}
	}
}
