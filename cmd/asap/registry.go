package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func (a *app) registryCommand() *cobra.Command {
	flags := &nodeFlags{}
	cmd := group(&cobra.Command{
		Use:   "registry",
		Short: "Find agents, and register your own",
	}, a.registrySearchCommand(flags), a.registryShowCommand(flags), a.registryRegisterCommand(flags), a.registryRemoveCommand(flags), a.registryImportCommand(flags))
	flags.add(cmd)
	return cmd
}

// registryRow is what the commands print of an agent.
type registryRow struct {
	ID     string      `json:"id"`
	Name   string      `json:"name"`
	Source string      `json:"source"`
	Skills []string    `json:"skills"`
	SLA    registrySLA `json:"sla"`
	// Promised is shown where nothing else is known.
	Promised registrySLA `json:"promised_sla"`
	Price    *struct {
		USD string `json:"max_usd_per_task"`
	} `json:"price"`
}

type registrySLA struct {
	Availability *registryFigure `json:"availability_percent"`
	LatencyP95   *registryFigure `json:"latency_p95_ms"`
	ErrorRate    *registryFigure `json:"error_rate_percent"`
	Score        *registryFigure `json:"sla_score"`
}

type registryFigure struct {
	Value jsontext.Value `json:"value"`
	Basis string         `json:"basis"`
}

// text prints a figure, with a p for one that is only promised.
func (f *registryFigure) text() string {
	switch {
	case f == nil:
		return "-"
	case f.Basis == "promised":
		return string(f.Value) + "p"
	}
	return string(f.Value)
}

func (a *app) registrySearchCommand(flags *nodeFlags) *cobra.Command {
	filter := map[string]*string{}
	var limit int
	var document string
	cmd := &cobra.Command{
		Use:   "search [WORD...]",
		Short: "Find agents by words, skill, promises or price",
		Long: `Lists the agents of a node's registry that match everything that is asked for.
Figures with a p are what the agent's manifest promises; the others were measured
by the node. Filters and order go by measured figures, or with --basis promised by
promises. What nobody knows is a dash, and passes no filter.

With --registry the agents are those of a Lite Registry document, by --skill.`,
		Example: `  asap registry search translate --min-availability 99.5 --sort latency
  asap registry search --skill code_review --max-price 0.05 --json
  asap registry search --skill code_review --registry ` + client.DefaultRegistry,
		RunE: work(func(cmd *cobra.Command, args []string) error {
			if document != "" {
				return a.searchDocument(cmd.Context(), document, *filter["skill"], limit)
			}
			return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
				q := url.Values{"limit": {strconv.Itoa(limit)}}
				if len(args) > 0 {
					q.Set("q", strings.Join(args, " "))
				}
				for param, value := range filter {
					if *value != "" {
						q.Set(param, *value)
					}
				}
				var raw jsontext.Value
				if err := n.get(ctx, "/registry/agents", q, &raw); err != nil {
					return err
				}
				return a.answer(raw, func(io.Writer) error { return a.printAgents(raw) })
			})(cmd, nil)
		}),
	}
	for _, f := range []struct{ name, param, help string }{
		{"skill", "skill", "only agents with this skill"},
		{"capability", "capability", "streaming, state_persistence, mcp_tools, a tool's name or a skill's id"},
		{"min-availability", "min_availability", "percentage, such as 99.5"},
		{"max-latency-p95-ms", "max_latency_p95_ms", "milliseconds"},
		{"max-error-rate", "max_error_rate", "percentage, such as 1"},
		{"max-price", "max_price", "US dollars a task may cost at most"},
		{"basis", "availability_basis", "promised or measured: which figures count"},
		{"sort", "sort", "sla_score, availability, latency, name or price, with - in front for descending, or relevance"},
		{"cursor", "cursor", "where the page before ended"},
	} {
		filter[f.param] = cmd.Flags().String(f.name, "", f.help)
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "agents a page, 1 to 1000")
	cmd.Flags().StringVar(&document, "registry", "", "URL of a Lite Registry document to search instead of a node")
	return cmd
}

func (a *app) printAgents(raw jsontext.Value) error {
	var page struct {
		Data    []registryRow `json:"data"`
		Total   int           `json:"total"`
		Unknown int           `json:"unknown"`
		Next    *string       `json:"next_cursor"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	rows := make([][]string, len(page.Data))
	for i, r := range page.Data {
		price := "-"
		if r.Price != nil {
			price = r.Price.USD
		}
		rows[i] = []string{r.ID, r.Name, r.Source, strings.Join(r.Skills, ","), cmp.Or(r.SLA.Availability, r.Promised.Availability).text(),
			cmp.Or(r.SLA.LatencyP95, r.Promised.LatencyP95).text(), cmp.Or(r.SLA.ErrorRate, r.Promised.ErrorRate).text(), r.SLA.Score.text(), price}
	}
	if err := a.table([]string{"AGENT", "NAME", "SOURCE", "SKILLS", "AVAILABLE %", "P95 MS", "ERRORS %", "SCORE", "USD"}, rows); err != nil {
		return err
	}
	if page.Unknown > 0 {
		fmt.Fprintf(a.errOut, "%d more would match if what is asked for were known of them\n", page.Unknown)
	}
	if page.Next != nil {
		fmt.Fprintf(a.errOut, "more: --cursor %s (%d in all)\n", plain(*page.Next), page.Total)
	}
	return nil
}

// searchDocument searches a Lite Registry document.
func (a *app) searchDocument(ctx context.Context, document, skill string, limit int) error {
	r, err := client.NewRegistry(document)
	if err != nil {
		return usageErrorf("--registry: %w", err)
	}
	defer r.Close()
	agents, err := r.Find(ctx, client.AgentQuery{Skill: skill, Limit: limit})
	if err != nil {
		return stateErrorf("%w", err)
	}
	type entry struct {
		ID       asap.AgentURN `json:"id"`
		Name     string        `json:"name"`
		HTTP     string        `json:"http"`
		Manifest string        `json:"manifest"`
		Skills   []string      `json:"skills"`
	}
	list, rows := make([]entry, len(agents)), make([][]string, len(agents))
	for i, g := range agents {
		list[i] = entry{g.ID, g.Name, g.HTTP, g.ManifestURL, append([]string{}, g.Skills...)}
		rows[i] = []string{string(g.ID), g.Name, strings.Join(g.Skills, ","), g.HTTP}
	}
	return a.answer(list, func(io.Writer) error { return a.table([]string{"AGENT", "NAME", "SKILLS", "HTTP"}, rows) })
}

// agentPath is the address of an agent in the registry.
func agentPath(urn string) (string, error) {
	if _, err := asap.ParseAgentURN(urn); err != nil {
		return "", badValuef("%q: %w", urn, err)
	}
	return "/registry/agents/" + urn, nil
}

func (a *app) registryShowCommand(flags *nodeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show URN",
		Short: "Show what the registry holds of one agent",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			path, err := agentPath(args[0])
			if err != nil {
				return err
			}
			return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
				var raw jsontext.Value
				if err := n.get(ctx, path, nil, &raw); err != nil {
					return err
				}
				return a.answer(raw, func(io.Writer) error { return a.members(raw) })
			})(cmd, nil)
		}),
	}
}

// identityFlags say as whom a registration or a removal is asked for.
type identityFlags struct{ key string }

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", "private key (PEM) of the agent, to ask as the agent itself (default: the operator token)")
}

// as signs n in as the agent, if there is a key.
func (a *app) as(ctx context.Context, n *nodeAPI, f identityFlags, urn string) error {
	if f.key == "" {
		return nil
	}
	return a.signIn(ctx, n, f.key, asap.AgentURN(urn))
}

func (a *app) registryRegisterCommand(flags *nodeFlags) *cobra.Command {
	var identity identityFlags
	var force, replaceKeys bool
	cmd := &cobra.Command{
		Use:   "register SIGNED_MANIFEST",
		Short: "Register an agent by its signed manifest, or bring it up to date",
		Long: `Puts a signed manifest (asap manifest sign; - is standard input) into the registry
of a running node. The first manifest pins its key: later ones must be signed with
it and must not have a lower version. The operator may bring one of another key,
which is pinned beside the first, or with --replace-keys instead of it.

Without --key the operator token is presented. An agent the node already knows a
key of presents its own: --key FILE.`,
		Example: `  asap manifest sign manifest.json --key me.key --out signed.json
  asap registry register signed.json`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			document, err := a.readInput("Signed manifest", args[0])
			if err != nil {
				return err
			}
			signed, err := asap.ParseSignedManifest(document)
			if err != nil {
				return badValuef("%s is not a signed manifest (asap manifest sign makes one): %w", args[0], err)
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				if err := a.as(ctx, n, identity, string(signed.Manifest.ID)); err != nil {
					return err
				}
				q := url.Values{}
				if force {
					q.Set("force", "true")
				}
				if replaceKeys {
					q.Set("replace_keys", "true")
				}
				return a.changeRegistry(ctx, n, http.MethodPut, string(signed.Manifest.ID), q, document)
			})(cmd, nil)
		}),
	}
	identity.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "operator: take an older version, or other content of the same one")
	cmd.Flags().BoolVar(&replaceKeys, "replace-keys", false, "operator: drop every other key of the agent")
	return cmd
}

func (a *app) registryRemoveCommand(flags *nodeFlags) *cobra.Command {
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "remove URN",
		Short: "Take an agent out of the registry",
		Long: `Takes an agent out of the registry of a running node. Its keys prove nothing there
any more; should it come back, its manifest must be signed with one of them and
must not be older.`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			if _, err := agentPath(args[0]); err != nil {
				return err
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				if err := a.as(ctx, n, identity, args[0]); err != nil {
					return err
				}
				return a.changeRegistry(ctx, n, http.MethodDelete, args[0], nil, nil)
			})(cmd, nil)
		}),
	}
	identity.add(cmd)
	return cmd
}

func (a *app) changeRegistry(ctx context.Context, n *nodeAPI, method, urn string, q url.Values, body []byte) error {
	res, err := n.do(ctx, method, "/registry/agents/"+urn, q, "application/json", body)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	var raw jsontext.Value
	if err := json.UnmarshalRead(res.Body, &raw); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	return a.answer(raw, func(w io.Writer) error {
		var done struct {
			Status  string `json:"status"`
			Receipt *struct {
				Seq  int64  `json:"seq"`
				Hash string `json:"hash"`
			} `json:"receipt"`
		}
		if err := json.Unmarshal(raw, &done); err != nil {
			return stateErrorf("read the node's answer: %w", err)
		}
		proof := ""
		if done.Receipt != nil {
			proof = fmt.Sprintf(" (audit entry %d, %s)", done.Receipt.Seq, done.Receipt.Hash)
		}
		_, err := fmt.Fprintf(w, "%s: %s%s\n", urn, done.Status, proof)
		return err
	})
}

func (a *app) registryImportCommand(flags *nodeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the agents of a Lite Registry document",
		Long: `Puts the agents of a Lite Registry document (- is standard input) into the registry
of a running node; for the operator. Members nobody knows are ignored, and entries
that cannot be used are left out and counted. An agent that registered itself is
left alone.`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			document, err := a.readInput("Lite Registry document", args[0])
			if err != nil {
				return err
			}
			return a.withRunningNode(flags, func(ctx context.Context, n *nodeAPI) error {
				res, err := n.do(ctx, http.MethodPost, "/registry/import", nil, "application/json", document)
				if err != nil {
					return err
				}
				defer res.Body.Close() //nolint:errcheck // only read
				var raw jsontext.Value
				if err := json.UnmarshalRead(res.Body, &raw); err != nil {
					return stateErrorf("read the node's answer: %w", err)
				}
				return a.answer(raw, func(io.Writer) error { return a.printImport(raw) })
			})(cmd, nil)
		}),
	}
}

func (a *app) printImport(raw jsontext.Value) error {
	var done struct {
		Registered, Updated, Unchanged, Kept, Skipped int
		SkippedFirst                                  []struct {
			Index  int
			Reason string
		} `json:"skipped_entries"`
	}
	if err := json.Unmarshal(raw, &done, json.MatchCaseInsensitiveNames(true)); err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	for _, s := range done.SkippedFirst {
		a.warnf("entry %d is left out: %s", s.Index, s.Reason)
	}
	_, err := fmt.Fprintf(a.out, "registered %d, updated %d, unchanged %d, kept %d, skipped %d\n", done.Registered, done.Updated, done.Unchanged, done.Kept, done.Skipped)
	return err
}
