package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands in your shell",
		Example: `  source <(asap completion bash)
  asap completion fish > ~/.config/fish/completions/asap.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: work(func(cmd *cobra.Command, args []string) error {
			var script bytes.Buffer
			if err := completionScript(cmd.Root(), args[0], &script); err != nil {
				return err
			}
			type answer struct {
				Shell  string `json:"shell"`
				Script string `json:"script"`
			}
			return a.answer(answer{args[0], script.String()}, func(w io.Writer) error {
				_, err := script.WriteTo(w)
				return err
			})
		}),
	}
}

func completionScript(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(w)
	}
	return usageErrorf("unknown shell: %s", shell)
}

// manCommand writes the manual pages; it is for packagers, so it is hidden.
func (a *app) manCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "man --output-dir DIR",
		Short:  "Write the manual pages, one file per command",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return badValuef("Cannot write to directory: %w", err)
			}
			// A fixed date: the same source gives the same pages.
			date := time.Unix(0, 0).UTC()
			header := &doc.GenManHeader{Section: "1", Source: "asap " + asap.Version, Manual: "ASAP", Date: &date}
			if err := doc.GenManTree(cmd.Root(), header, dir); err != nil {
				return err
			}
			type answer struct {
				Dir string `json:"dir"`
			}
			return a.answer(answer{dir}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Manual pages written to %s\n", dir)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&dir, "output-dir", "man", "folder to write to")
	return cmd
}
