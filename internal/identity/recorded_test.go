package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// recordedDifferences are the exchanges that end otherwise here, each with its
// row in docs/compatibility.md.
var recordedDifferences = map[string]string{
	"auth_lowercase_bearer_rejected":  "oidc-scheme-case",
	"auth_no_exp_accepted":            "oidc-claims",
	"auth_exp_zero_accepted":          "oidc-claims",
	"auth_exp_string_accepted":        "oidc-claims",
	"auth_nbf_future_accepted":        "oidc-claims",
	"auth_admin_scope_is_not_execute": "oidc-admin-scope",
	"auth_custom_claim_mismatch":      "oidc-agent-claim",
}

// The recorded tokens: their signatures are judged as v1.3.0 judged them, but
// they name no issuer and no audience, which is not enough here. With both, and
// signed anew, they end as recorded or as docs/compatibility.md says.
func TestRecordedOAuth2(t *testing.T) {
	text, err := os.ReadFile("testdata/oauth2_v1.3.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		JWKS      jsontext.Value `json:"jwks"`
		Exchanges []struct {
			Name          string    `json:"name"`
			Clock         time.Time `json:"clock"`
			Authorization []string  `json:"authorization"`
			Status        int       `json:"status"`
			Scope         string    `json:"required_scope"`
		} `json:"exchanges"`
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	differences, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t)
	p.add("test-only-oauth-1", "RS256", nil)
	for _, e := range recorded.Exchanges {
		auth := &Authenticator{Now: func() time.Time { return e.Clock }}
		auth.OIDC = testOIDC(t, p, func(c *OIDCConfig) {
			c.Fetch = func(context.Context) ([]byte, error) { return recorded.JWKS, nil }
		})
		_, err := auth.Authenticate(t.Context(), Credentials{Authorization: e.Authorization})
		if err == nil {
			t.Errorf("%s: taken without issuer and audience", e.Name)
		}
		signed := strings.Contains(err.Error(), "another issuer") || strings.Contains(err.Error(), "claims are not of the right form")
		if e.Status < 300 && !signed {
			t.Errorf("%s: its signature was good, and now: %v", e.Name, err)
		}

		auth.OIDC = testOIDC(t, p, func(c *OIDCConfig) { c.RequiredScope = e.Scope })
		_, err = auth.Authenticate(t.Context(), Credentials{Authorization: adapted(t, p, e.Name, e.Authorization)})
		got, want := 200, e.Status
		switch {
		case errors.Is(err, ErrScope):
			got = 403
		case err != nil:
			got = 401
		}
		if want < 300 || want == 503 { // 503: the caller was let in, and the server lacked something
			want = 200
		}
		row, differs := recordedDifferences[e.Name]
		if differs == (got == want) {
			t.Errorf("%s: %d (%v), recorded %d, listed as different: %t", e.Name, got, err, e.Status, differs)
		}
		if differs && !strings.Contains(string(differences), "| `"+row+"` |") {
			t.Errorf("%s: docs/compatibility.md has no row %s", e.Name, row)
		}
	}
	if len(recorded.Exchanges) < 20 {
		t.Errorf("only %d exchanges", len(recorded.Exchanges))
	}
}

// adapted gives the token of a recorded header an issuer and an audience.
func adapted(t *testing.T, p *provider, name string, header []string) []string {
	t.Helper()
	if len(header) != 1 || name == "auth_tampered_token" {
		return header
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return header
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	head, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	claims["iss"], claims["aud"] = issuerURL, "asap"
	return []string{scheme + " " + p.token(p.private["test-only-oauth-1"], "RS256", string(head), claims)}
}
