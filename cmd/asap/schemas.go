package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func (a *app) schemasCommand() *cobra.Command {
	return group(&cobra.Command{Use: "schemas", Short: "The JSON Schemas of the protocol, and validation against its models"},
		a.schemasListCommand("list"),
		a.schemasShowCommand("show"),
		a.schemasExportCommand("export"),
		a.schemasValidateCommand("validate"),
	)
}

// schemaAliases are the schema commands under their v1.3.0 names.
func (a *app) schemaAliases() []*cobra.Command {
	aliases := []*cobra.Command{
		a.schemasListCommand("list-schemas"),
		a.schemasShowCommand("show-schema"),
		a.schemasExportCommand("export-schemas"),
		a.schemasValidateCommand("validate-schema"),
	}
	for _, alias := range aliases {
		alias.Hidden = true
	}
	return aliases
}

func (a *app) schemasListCommand(use string) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   use,
		Short: "List the schemas: name, and path below the folder that export writes to",
		Args:  cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			type entry struct {
				Name string `json:"name"`
				Path string `json:"path"`
			}
			entries := []entry{}
			for _, s := range asap.Schemas() {
				entries = append(entries, entry{s.Name, s.Path})
			}
			return a.answer(entries, func(w io.Writer) error {
				for _, e := range entries {
					if _, err := fmt.Fprintf(w, "%s\t%s\n", e.Name, e.Path); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	cmd.Flags().StringVar(&dir, "output-dir", "schemas", "accepted for v1.3.0 scripts; changes nothing")
	return cmd
}

func schemaNames() []string {
	var names []string
	for _, s := range asap.Schemas() {
		names = append(names, s.Name)
	}
	return names
}

func (a *app) schemasShowCommand(use string) *cobra.Command {
	return &cobra.Command{
		Use:       use + " SCHEMA_NAME",
		Short:     "Print one schema",
		Args:      cobra.ExactArgs(1),
		ValidArgs: schemaNames(),
		RunE: work(func(_ *cobra.Command, args []string) error {
			schema, known := asap.LookupSchema(args[0])
			if !known {
				return badValuef("Unknown schema name: %s", args[0])
			}
			_, err := fmt.Fprintf(a.out, "%s\n", schema.JSON())
			return err
		}),
	}
}

func (a *app) schemasExportCommand(use string) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   use,
		Short: "Write all schemas to a folder",
		Args:  cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			paths, err := exportSchemas(dir)
			if err != nil {
				return err
			}
			type answer struct {
				Dir   string   `json:"dir"`
				Files []string `json:"files"` // below Dir, sorted
			}
			return a.answer(answer{dir, paths}, func(w io.Writer) error {
				text := fmt.Sprintf("Exported %d schemas to %s\n", len(paths), dir)
				if a.verbose {
					for _, path := range paths {
						text += "  - " + path + "\n"
					}
				}
				_, err := io.WriteString(w, text)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&dir, "output-dir", "schemas", "folder to write to")
	return cmd
}

// exportSchemas writes every schema below dir and returns their paths, sorted.
func exportSchemas(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, badValuef("Cannot write to directory: %s", dir)
	}
	var paths []string
	for _, s := range asap.Schemas() {
		if err := writeFileAtomic(filepath.Join(dir, filepath.FromSlash(s.Path)), append(s.JSON(), '\n'), 0o644, true); err != nil {
			return nil, badValuef("Failed to export schemas: %w", err)
		}
		paths = append(paths, s.Path)
	}
	slices.Sort(paths)
	return paths, nil
}

func (a *app) schemasValidateCommand(use string) *cobra.Command {
	var schemaType string
	cmd := &cobra.Command{
		Use:   use + " FILE",
		Short: "Check a JSON file against the model of a type, custom rules included",
		Long: `Reads one JSON object and checks it as a running node would: the schema, and the
rules no schema can say. Without --schema-type only an envelope is recognised.`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			data, err := a.readInput("File", args[0])
			if err != nil {
				return err
			}
			document := jsontext.Value(data)
			if !document.IsValid() {
				return badValuef("Invalid JSON: %w", explainJSON(data))
			}
			if document.Kind() != jsontext.KindBeginObject {
				return badValuef("JSON root must be an object")
			}
			if schemaType == "" {
				if schemaType = asap.DetectSchema(data); schemaType == "" {
					return badValuef("Cannot auto-detect schema type. Use --schema-type to specify.")
				}
			}
			err = asap.Validate(schemaType, data)
			if errors.Is(err, asap.ErrUnknownSchema) {
				return badValuef("Unknown schema type: %s", schemaType)
			}
			if err != nil {
				return badValuef("%s", describeIssues(err))
			}
			type answer struct {
				Valid bool   `json:"valid"`
				Type  string `json:"type"`
				File  string `json:"file"`
			}
			return a.answer(answer{true, schemaType, args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Valid %s schema: %s\n", schemaType, args[0])
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&schemaType, "schema-type", "", "name of the type, one of asap schemas list")
	if err := cmd.RegisterFlagCompletionFunc("schema-type", cobra.FixedCompletions(schemaNames(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added one line above
	}
	return cmd
}

// describeIssues writes what is wrong with a document, one line per issue.
func describeIssues(err error) string {
	var invalid *asap.ValidationError
	if !errors.As(err, &invalid) {
		return err.Error()
	}
	var b strings.Builder
	b.WriteString("Validation error:")
	for _, issue := range invalid.Issues {
		fmt.Fprintf(&b, "\n  - %s: %s", strings.Join(issue.Loc, "."), issue.Msg)
	}
	return b.String()
}
