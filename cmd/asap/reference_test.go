package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// docs/reference is written from the code: the commands, the configuration and the
// OpenAPI document. "make docs" writes it anew; this test fails when it is old.
func TestReference(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*testing.T) string{
		"cli.md": commandReference, "configuration.md": configurationReference, "http.md": httpReference,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("../../docs/reference", name)
			want := write(t)
			if os.Getenv("UPDATE_DOCS") != "" {
				if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			have, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(strings.Split(string(have), "\n"), strings.Split(want, "\n")); diff != "" {
				t.Errorf("docs/reference/%s is not what the code says; \"make docs\" writes it anew (-page +code):\n%s", name, diff)
			}
		})
	}
}

const commandsPreface = "# The asap command\n\n" +
	"Written from the code by `make docs`. `asap help COMMAND` says the same; the differences from the Python release are in\n" +
	"[compatibility](../compatibility.md#the-command-line).\n\n" +
	"- `--json` answers in JSON; without it, text. Results go to standard output; warnings, errors and logs to standard error.\n" +
	"- On a terminal, tables are aligned and coloured (`NO_COLOR` turns colour off). In a pipe a table is one line per row, cells separated by tabs.\n" +
	"- An error is `Error: …` on standard error, after a hint when the usage was wrong; under `--json` it is `{\"error\":{\"exit_status\":…,\"message\":…}}`.\n" +
	"- Commands that talk to a node find it by `--node`, `ASAP_NODE`, or the data directory; those that only read work on a stopped node's too. They present the\n" +
	"  token of `--token-file`, `ASAP_TOKEN`, or the data directory's operator token.\n\n" +
	"| exit status | meaning |\n| --- | --- |\n" +
	"| 0 | done, and every check passed |\n" +
	"| 1 | refused, or a check failed |\n" +
	"| 2 | wrong usage: an unknown flag, a missing argument, an input file that is missing or not what it should be |\n" +
	"| 3 | a node, a store or a data directory cannot be reached or read |\n\n"

// commandReference is the page of the command line.
func commandReference(t *testing.T) string {
	a, _, _ := testApp(t, nil)
	var index, pages strings.Builder
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			if child.Hidden || child.Name() == "help" {
				continue
			}
			if child.HasSubCommands() {
				walk(child)
				continue
			}
			path := child.CommandPath()
			fmt.Fprintf(&index, "| [`%s`](#%s) | %s |\n", strings.TrimPrefix(path, "asap "), strings.ReplaceAll(path, " ", "-"), cell(child.Short))
			fmt.Fprintf(&pages, "## %s\n\n%s.\n\n```text\n%s\n```\n\n", path, strings.TrimSuffix(child.Short, "."), child.UseLine())
			if child.Long != "" {
				fmt.Fprintf(&pages, "```text\n%s\n```\n\n", strings.TrimSpace(child.Long))
			}
			if text := flags(child); text != "" {
				fmt.Fprintf(&pages, "```text\n%s```\n\n", text)
			}
			if child.Example != "" {
				fmt.Fprintf(&pages, "```text\n%s\n```\n\n", dedent(child.Example))
			}
		}
	}
	walk(a.root())
	return commandsPreface + "| command | does |\n| --- | --- |\n" + index.String() + "\n`--json` and `--verbose` are flags of every command.\n\n" + strings.TrimRight(pages.String(), "\n") + "\n"
}

// flags are those of a command and of the group it is in, as its help shows them.
func flags(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	var out strings.Builder
	for line := range strings.Lines(c.LocalFlags().FlagUsages() + c.InheritedFlags().FlagUsages()) {
		name := strings.Fields(line)
		if len(name) > 1 && (slices.Contains(name[:2], "--help") || slices.Contains(name[:2], "--json") || slices.Contains(name[:2], "--verbose")) {
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// cell is text as a cell of a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(strings.TrimSpace(s))
}

// dedent takes the indentation of the first line from all.
func dedent(s string) string {
	indent := s[:len(s)-len(strings.TrimLeft(s, " "))]
	lines := strings.Split(strings.TrimRight(s, "\n "), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], indent)
	}
	return strings.Join(lines, "\n")
}

const configurationPreface = "# Configuration\n\n" +
	"Written from the code by `make docs`. `asap config` prints the configuration that `asap serve` would run with, in the form of the file.\n\n" +
	"Flags go over environment variables, those over the file (`--config`, `ASAP_CONFIG`, or `asap.yaml` in the working directory), and that over the defaults.\n" +
	"`--set KEY=VALUE` sets any key that is not a list. Unknown keys are errors, with the line. Durations are `90d`, `12h`, `1h30m`, `500ms`. Secrets are named, not\n" +
	"written: `env:NAME` or `file:PATH`. SIGHUP reads the configuration, the keys and the certificates again; keys marked in the last column take effect then,\n" +
	"the others at the next start. A file with a mistake changes nothing.\n"

const configurationLists = `
## agents

Agents of the node's own, for trying it out; without any, and without agents of a Go program, there is one echo agent. The first one answers what names no
hosted agent.

` + "```yaml" + `
agents:
  - urn: urn:asap:agent:echo
    name: Echo
    kind: echo
` + "```" + `

## metering.prices

One list per agent and time. Amounts are decimal US dollars, taken digit by digit. A model, a skill, or a model of a skill can override what it names; what it
leaves out is inherited, and what nobody sets is not charged for. A task whose price needs a quantity that was not reported is unpriced, not free.
` + "`max_usd_per_task`" + ` is the ceiling that is held of a delegation before the task starts; it is not a price. SIGHUP changes prices for tasks that start later.

` + "```yaml" + `
metering:
  prices:
    - agent: urn:asap:agent:writer
      effective_from: 2026-01-01T00:00:00Z
      usd_per_task: "0.01"
      usd_per_million_tokens_in: "3"
      usd_per_million_tokens_out: "15"
      usd_per_million_tokens_cache_read: "0.30"
      usd_per_million_tokens_cache_write: "3.75"
      usd_per_api_call: "0.002"
      usd_per_second: "0.0001"
      max_usd_per_task: "0.50"
      models:
        small:
          usd_per_million_tokens_in: "0.25"
      skills:
        proofread:
          usd_per_task: "0.005"
` + "```" + `
`

// configurationReference is the page of the settings.
func configurationReference(*testing.T) string {
	var w strings.Builder
	w.WriteString(configurationPreface)
	c := node.Defaults()
	section := "-"
	for _, s := range c.Settings() {
		top, _, nested := strings.Cut(s.Key, ".")
		if !nested {
			top = ""
		}
		if top != section {
			section = top
			fmt.Fprintf(&w, "\n## %s\n\n| key | default | means | environment | reload |\n| --- | --- | --- | --- | --- |\n", cmp.Or(top, "The node"))
		}
		value, reload := "", ""
		if s.Value != "" {
			value = "`" + s.Value + "`"
		}
		if s.Reload {
			reload = "yes"
		}
		fmt.Fprintf(&w, "| `%s` | %s | %s | `%s` | %s |\n", s.Key, value, cell(s.Doc), s.Env, reload)
	}
	return w.String() + configurationLists
}

// apiParameter and apiOperation are what the reference takes of the OpenAPI document.
type apiParameter struct {
	Name        string `json:"name"`
	In          string `json:"in"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
	Schema      struct {
		Type string `json:"type"`
		Enum []any  `json:"enum"`
	} `json:"schema"`
}

type apiOperation struct {
	Summary     string         `json:"summary"`
	Description string         `json:"description"`
	Parameters  []apiParameter `json:"parameters"`
	RequestBody struct {
		Content map[string]any `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]any `json:"content"`
	} `json:"responses"`
}

const httpPreface = "# HTTP interface\n\n" +
	"Written from the OpenAPI 3.1 document that a node serves at `/openapi.json`, by `make docs`; that document has every member of every body.\n\n" +
	"Who may do what is one table in [authorization](../authorization.md), every code of a refusal is in [errors](../errors.md), and bodies of refusals are\n" +
	"`application/problem+json` (RFC 9457) with a stable `code`. Lists take `limit` (100 if left out, at most 1,000) and `cursor`, which is the `next_cursor` of the\n" +
	"answer before. Time filters are half-open, RFC 3339 with a zone. Where v1.3.0 spells a member or parameter otherwise (`agent_id`), both are taken and both are\n" +
	"given. Colons of agent URNs may stand in paths as they are or percent-encoded.\n"

// httpGroups orders the routes: a title, and the first segments of its paths.
var httpGroups = []struct {
	title    string
	segments []string
}{
	{"The protocol", []string{"asap", ".well-known"}},
	{"Usage", []string{"usage"}},
	{"Delegations", []string{"delegations"}},
	{"Service levels", []string{"agents", "sla"}},
	{"Audit log", []string{"audit"}},
	{"Registry", []string{"registry", "registry.json"}},
	{"The node", nil}, // whatever is left
}

// httpReference is the page of the routes.
func httpReference(t *testing.T) string {
	config := node.Defaults()
	config.Listen, config.Data, config.Store = "127.0.0.1:0", t.TempDir(), "memory:"
	n, err := node.Open(t.Context(), config, node.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	defer func() {
		stop()
		if err := cmp.Or(<-ran, n.Close()); err != nil {
			t.Error(err)
		}
	}()
	res, err := http.Get(n.URL() + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var document struct {
		Paths map[string]map[string]apiOperation `json:"paths"`
	}
	if err := json.UnmarshalRead(res.Body, &document); err != nil {
		t.Fatal(err)
	}

	groups := make([]bytes.Buffer, len(httpGroups))
	paths := make([]string, 0, len(document.Paths))
	for path := range document.Paths {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		segment, _, _ := strings.Cut(strings.TrimPrefix(strings.Replace(path, "/asap/delegations", "/delegations", 1), "/"), "/")
		g := slices.IndexFunc(httpGroups, func(g struct {
			title    string
			segments []string
		}) bool {
			return g.segments == nil || slices.Contains(g.segments, segment)
		})
		for _, method := range []string{"get", "post", "put", "delete"} {
			if op, ok := document.Paths[path][method]; ok {
				op.write(&groups[g], strings.ToUpper(method)+" "+path)
			}
		}
	}
	out := httpPreface
	for i, g := range httpGroups {
		out += "\n## " + g.title + "\n\n" + strings.TrimRight(groups[i].String(), "\n") + "\n"
	}
	return out
}

func (op *apiOperation) write(w *bytes.Buffer, route string) {
	fmt.Fprintf(w, "### `%s`\n\n%s\n\n", route, strings.TrimSpace(strings.TrimSuffix(op.Summary, ".")+". "+op.Description))
	var rows []string
	for _, p := range op.Parameters {
		kind := p.Schema.Type
		if len(p.Schema.Enum) > 0 {
			var values []string
			for _, v := range p.Schema.Enum {
				values = append(values, fmt.Sprintf("`%v`", v))
			}
			kind = strings.Join(values, ", ")
		}
		name := "`" + p.Name + "`"
		if p.In != "query" {
			name += " (" + p.In + ")"
		}
		if p.Required && p.In != "path" {
			name += ", required"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", name, kind, cell(p.Description)))
	}
	if len(rows) > 0 {
		w.WriteString("| parameter | values | means |\n| --- | --- | --- |\n" + strings.Join(rows, "") + "\n")
	}
	body := ""
	if len(op.RequestBody.Content) > 0 {
		body = "Takes " + types(op.RequestBody.Content) + ". "
	}
	var answers []string
	for _, status := range sorted(op.Responses) {
		if status >= "400" {
			break
		}
		answer := "`" + status + "`"
		if kinds := types(op.Responses[status].Content); kinds != "" {
			answer += " with " + kinds
		}
		answers = append(answers, answer)
	}
	fmt.Fprintf(w, "%sAnswers %s.\n\n", body, strings.Join(answers, ", "))
}

func types(content map[string]any) string {
	kinds := sorted(content)
	for i := range kinds {
		kinds[i] = "`" + kinds[i] + "`"
	}
	return strings.Join(kinds, ", ")
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
