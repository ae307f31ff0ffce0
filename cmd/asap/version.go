package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	asap "github.com/asap-protocol/asap-go"
	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and how this binary was built",
		Args:  cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			info := buildInfo()
			return a.answer(info, func(w io.Writer) error {
				revision := ""
				if info.Revision != "" {
					revision = " " + info.Revision
				}
				if info.Modified {
					revision += " (modified)"
				}
				_, err := fmt.Fprintf(w, "asap %s%s %s %s\n", info.Version, revision, info.Go, info.Platform)
				return err
			})
		}),
	}
}

type buildDescription struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // version control revision, empty if unknown
	Modified bool   `json:"modified"` // built from a tree with uncommitted changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildInfo() buildDescription {
	d := buildDescription{
		Version:  asap.Version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return d
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			d.Revision = s.Value
		case "vcs.modified":
			d.Modified = s.Value == "true"
		}
	}
	return d
}
