package node

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/go-json-experiment/json/jsontext"
)

// The table of docs/authorization.md holds for every route the node serves and
// every kind of caller.
func TestAuthorizationTable(t *testing.T) {
	table := readAuthorization(t)
	w := newWorld(t)
	documented, plain := w.documented(t), plainRoutes(t)
	for _, route := range plain {
		// Redirects to the path without a slash, and methods that a path has not.
		if !slices.Contains(documented, route) && !strings.HasSuffix(route, "/{$}") && !strings.HasSuffix(route, " /") {
			t.Errorf("%s is not in the OpenAPI document", route)
		}
	}
	routes := append(documented, plain...)
	slices.Sort(routes)
	routes = slices.Compact(routes)
	for _, route := range routes {
		if table[route] == nil {
			t.Errorf("%s has no row in docs/authorization.md: say there who may call it", route)
		}
	}
	for route := range table {
		if !slices.Contains(routes, route) {
			t.Errorf("docs/authorization.md has a row for %s, which is not served", route)
		}
	}
	callers := w.callers(t)
	for _, route := range routes {
		for _, c := range callers {
			want := table[route][c.column]
			if c.node == w.local && table[route]["anyone here"] == "yes" {
				want = "yes" // whoever it is, it is here
			}
			status, body := w.ask(t, c, route)
			got := "yes"
			switch status {
			case http.StatusUnauthorized:
				got = "401"
			case http.StatusForbidden:
				got = "403"
			case http.StatusNotFound:
				got = "not there"
			}
			switch {
			case want == "own" && c.stranger: // it gets nothing of the agent whose task this is
				if strings.Contains(body, taskOwner) || got == "401" {
					t.Errorf("%s as %s: %s, %d %s: what is not its own", route, c.name, want, status, body)
				}
			case want == "own", want == "yes" && !c.bad:
				// That there is nothing to delete any more is said to who may.
				if got != "yes" && (got != "not there" || !strings.HasPrefix(route, "DELETE ")) {
					t.Errorf("%s as %s: %d, want %s\n%s", route, c.name, status, want, body)
				}
			case want == "signed":
				if got != "401" {
					t.Errorf("%s as %s, unsigned: %d\n%s", route, c.name, status, body)
				}
			case want != got && !c.bad:
				t.Errorf("%s as %s: %d, want %s\n%s", route, c.name, status, want, body)
			}
			// Bad credentials are refused wherever none would not do, with one text.
			if c.bad && table[route]["anyone"] != "yes" && (got == "yes" || got == "not there") {
				t.Errorf("%s as %s: %d\n%s", route, c.name, status, body)
			}
			if c.bad && got == "401" && !strings.Contains(body, "Invalid authentication token") {
				t.Errorf("%s as %s: another text: %s", route, c.name, body)
			}
		}
	}
}

// readAuthorization returns the cells of the table by route and column.
func readAuthorization(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]map[string]string{}
	columns := []string{"operator", "agent", "anyone", "anyone here"}
	known := []string{"yes", "own", "signed", "401", "403"}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != len(columns)+1 || !strings.HasPrefix(cells[0], " `") {
			continue
		}
		row := map[string]string{}
		for i, name := range columns {
			row[name] = strings.TrimSpace(cells[i+1])
			if !slices.Contains(known, row[name]) {
				t.Errorf("docs/authorization.md: %q is no cell, in %s", row[name], line)
			}
		}
		table[strings.Trim(cells[0], " `")] = row
	}
	return table
}

// plainRoutes finds what is registered besides the documented routes: every
// pattern that the sources give to a mux.
func plainRoutes(t *testing.T) []string {
	t.Helper()
	var routes []string
	add := func(pattern string) {
		if method, path, ok := strings.Cut(pattern, " "); ok {
			routes = append(routes, method+" "+path)
			return
		}
		method := "GET"
		if pattern == "/asap" {
			method = "POST"
		}
		routes = append(routes, method+" "+pattern)
	}
	pattern := regexp.MustCompile(`^([A-Z]+ )?/`)
	for _, dir := range []string{"../../agent", "../httpapi", "."} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			literals := func(n ast.Node) {
				ast.Inspect(n, func(n ast.Node) bool {
					if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
						if text, err := strconv.Unquote(lit.Value); err == nil && pattern.MatchString(text) {
							add(text)
						}
					}
					return true
				})
			}
			for _, decl := range parsed.Decls {
				f, ok := decl.(*ast.FuncDecl)
				switch {
				case !ok || f.Name.Name == "Handler":
				case dir == "../../agent" && f.Name.Name == "Routes":
					literals(f)
				default:
					ast.Inspect(f, func(n ast.Node) bool {
						call, ok := n.(*ast.CallExpr)
						if !ok || len(call.Args) == 0 {
							return true
						}
						if sel, ok := call.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Handle" || sel.Sel.Name == "HandleFunc") {
							if lit, ok := call.Args[0].(*ast.BasicLit); ok {
								literals(lit)
							}
						}
						return true
					})
				}
			}
		}
	}
	if len(routes) < 10 {
		t.Fatalf("only %v were found: the sources have changed", routes)
	}
	return routes
}

const (
	taskOwner = "urn:asap:agent:task-owner" // asked for the task of the world
	stranger  = "urn:asap:agent:stranger"   // did not
)

// world is a node that strangers can reach, over TLS and with an OpenID
// provider, one that only this machine can, and a task in the books of each.
type world struct {
	remote, local *securedNode
	ids           map[string]string
}

type routeCaller struct {
	name, column  string
	node          *securedNode
	authorization string
	certificate   string
	bad, stranger bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{remote: startSecured(t, true), local: startSecured(t, false), ids: map[string]string{}}
	for _, n := range []*securedNode{w.remote, w.local} {
		c := n.client(t, taskOwner, client.WithTokenSource(n.tokens(t, taskOwner)))
		result, err := c.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		if err != nil || result.Receipt == nil {
			t.Fatalf("%+v, %v", result, err)
		}
		w.ids[n.URL()+"{task_id}"] = string(result.TaskID)
		w.ids[n.URL()+"{id}"] = result.Receipt.EntryID
		given := ledger.Token{Issuer: taskOwner, Delegate: "urn:asap:agent:helper", TokenID: "del_of_the_world", Scopes: []string{"*"}, ExpiresAt: time.Now().Add(time.Hour)}
		if _, err := n.ledger.Issue(t.Context(), []ledger.Token{given}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) callers(t *testing.T) []routeCaller {
	t.Helper()
	r := w.remote
	now := time.Now().Unix()
	return []routeCaller{
		{name: "operator", column: "operator", node: r, authorization: r.operator(t)},
		{name: "operator of the provider", column: "operator", node: r, authorization: r.access(t, map[string]any{"sub": "somebody", "scope": "asap:admin"})},
		{name: "operator here", column: "operator", node: w.local, authorization: w.local.operator(t)},
		{name: "agent by key", column: "agent", node: r, authorization: r.token(t, taskOwner)},
		{name: "agent of the provider", column: "agent", node: r, authorization: r.access(t, map[string]any{"sub": taskOwner})},
		{name: "agent by certificate", column: "agent", node: r, certificate: taskOwner},
		{name: "agent here", column: "agent", node: w.local, authorization: w.local.token(t, taskOwner)},
		{name: "another agent", column: "agent", node: r, authorization: r.token(t, stranger), stranger: true},
		{name: "another agent by certificate", column: "agent", node: r, certificate: stranger, stranger: true},
		{name: "anyone", column: "anyone", node: r},
		{name: "anyone here", column: "anyone here", node: w.local},
		{name: "garbage", column: "anyone", node: r, authorization: "Bearer garbage", bad: true},
		{name: "basic", column: "anyone", node: r, authorization: "Basic Zm9v", bad: true},
		{name: "expired", column: "anyone", node: r, authorization: r.access(t, map[string]any{"sub": taskOwner, "exp": now - 1}), bad: true},
		{name: "unknown agent", column: "anyone", node: r, authorization: r.signed(t, 99, "urn:asap:agent:unknown", r.config.URN), bad: true},
		{name: "known agent, unknown key", column: "anyone", node: r, authorization: r.signed(t, 99, taskOwner, r.config.URN), bad: true},
		{name: "for another node", column: "anyone", node: r, authorization: r.signed(t, ownerKey, taskOwner, "urn:asap:agent:elsewhere"), bad: true},
		{name: "two names", column: "anyone", node: r, authorization: r.token(t, stranger), certificate: taskOwner, bad: true},
	}
}

// documented lists the routes of the OpenAPI document.
func (w *world) documented(t *testing.T) []string {
	t.Helper()
	_, body := w.ask(t, routeCaller{node: w.remote}, "GET /openapi.json")
	doc := decode[struct {
		Paths map[string]map[string]jsontext.Value `json:"paths"`
	}](t, []byte(body))
	var routes []string
	for path, methods := range doc.Paths {
		for method := range methods {
			if method == strings.ToLower(method) && slices.Contains([]string{"get", "put", "post", "delete", "patch", "head"}, method) {
				routes = append(routes, strings.ToUpper(method)+" "+path)
			}
		}
	}
	if len(routes) < 10 {
		t.Fatalf("the document has only %v", routes)
	}
	return routes
}

var wildcard = regexp.MustCompile(`\{[^}]*\}`)

// ask sends a request that is well formed for the route.
func (w *world) ask(t *testing.T, c routeCaller, route string) (status int, answer string) {
	t.Helper()
	method, path, _ := strings.Cut(route, " ")
	path = wildcard.ReplaceAllStringFunc(path, func(name string) string {
		if name == "{$}" {
			return ""
		}
		switch {
		case strings.Contains(route, "/delegations/"):
			return "del_of_the_world"
		case strings.Contains(route, "/sla/maintenance") && method != "GET": // its own
			return taskOwner
		case route == "GET /registry/agents/{id}", strings.HasPrefix(path, "/agents/"):
			return counterURN
		case strings.HasPrefix(path, "/registry/agents/"):
			return taskOwner
		}
		if id := w.ids[c.node.URL()+name]; id != "" {
			return id
		}
		return "none"
	})
	var body string
	report := fmt.Sprintf(`{"task_id":"reported","agent":%q,"consumer":"urn:asap:agent:consumer","timestamp":%q}`, taskOwner, time.Now().UTC().Truncate(time.Hour).Format(time.RFC3339))
	switch route {
	case "POST /usage", "POST /usage/validate":
		body = report
	case "POST /usage/batch":
		body = `{"events":[` + report + `]}`
	case "POST /delegations", "POST /asap/delegations":
		body = `{"delegate":"urn:asap:agent:helper","scopes":["task.execute"]}`
	case "POST /delegations/verify", "POST /asap/delegations/verify":
		body = `{"token":"none"}`
	case "POST /asap":
		sender := taskOwner
		e := asap.Envelope{ID: asap.NewIDSource().NewEnvelopeID(time.Now()), ASAPVersion: "0.1", Sender: asap.AgentURN(sender), Recipient: counterURN, PayloadType: "TaskRequest",
			Payload: jsontext.Value(`{"conversation_id":"c","skill_id":"count","input":{"n":1}}`)}
		body = `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":` + string(e.AppendJSON(nil)) + `}}`
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.node.URL()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if c.authorization != "" {
		req.Header.Set("Authorization", c.authorization)
	}
	res, err := c.node.http(t, c.certificate).Do(req)
	if err != nil {
		t.Fatalf("%s as %s: %v", route, c.name, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	// A JSON-RPC answer says in its body what others say with the status.
	if at := bytes.Index(text, []byte(`"status_code":40`)); route == "POST /asap" && at >= 0 {
		if n, err := strconv.Atoi(string(text[at+14 : at+17])); err == nil {
			return n, string(text)
		}
	}
	return res.StatusCode, string(text)
}
