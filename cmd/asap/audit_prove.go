package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/spf13/cobra"
)

func (a *app) auditExportCommand(flags *nodeFlags) *cobra.Command {
	var format, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the whole log with its checkpoints, to be verified elsewhere",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			if _, err := audit.ParseFormat(format); err != nil {
				return usageErrorf("--format: %w", err)
			}
			res, err := n.do(ctx, http.MethodGet, "/audit/export", url.Values{"format": {format}}, "", nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if out == "" || out == "-" {
				if _, err = io.Copy(a.out, res.Body); err != nil {
					return stateErrorf("the export broke off: %w", err)
				}
				return nil
			}
			return writeFile(out, res.Body)
		}),
	}
	cmd.Flags().StringVar(&format, "format", "json", "json, jsonl (or ndjson), or csv, which cannot be verified")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write to (default: standard output)")
	return cmd
}

// signedHead is the answer of GET /audit/checkpoint in JSON.
type signedHead struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`
	Root       string `json:"root"`
	VKey       string `json:"vkey"`
	Checkpoint string `json:"checkpoint"`
}

func (a *app) auditCheckpointCommand(flags *nodeFlags) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest signed checkpoint; keep it, to hold the log to it later",
		Args:  cobra.NoArgs,
		RunE: a.withNode(flags, func(ctx context.Context, n *nodeAPI) error {
			var head signedHead
			n.accept = "application/json"
			if err := n.get(ctx, "/audit/checkpoint", nil, &head); err != nil {
				return err
			}
			if out != "" && out != "-" {
				if err := writeFileAtomic(out, []byte(head.Checkpoint), 0o644, true); err != nil {
					return err
				}
			}
			return a.answer(head, func(w io.Writer) error {
				if out == "" || out == "-" {
					fmt.Fprint(w, head.Checkpoint)
				}
				fmt.Fprintf(a.errOut, "verifier key: %s\n", head.VKey)
				return nil
			})
		}),
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write the note to")
	return cmd
}

func (a *app) auditProveCommand(flags *nodeFlags) *cobra.Command {
	var f auditFlags
	var receipt, proof, out string
	cmd := &cobra.Command{
		Use:   "prove [ENTRY_ID]",
		Short: "Prove that an entry is in the log, or check that the entry of a receipt is",
		Long: `prove ENTRY_ID prints the proof of an entry: with the log's verifier key it shows
anybody that the entry is in the log, and needs nothing else.

prove --receipt FILE checks that the entry of a receipt is in the log: of a data
directory or an export (--file), which are verified as a whole, or of a node
(--node), whose proof is checked. With --proof FILE it needs no log at all. A
receipt is {"seq", "id", "hash"}, alone or within an answer to a task.

Exit status: 0 it is in the log, 1 it is not or the log is not valid, 2 unusable
input, 3 the log cannot be read.`,
		Example: `  asap audit prove --receipt answer.json --file export.jsonl --vkey node.vkey
  asap audit prove 01K5Z7Q8N0V4T3F1A2B3C4D5E6 -o entry.proof
  asap audit prove --receipt answer.json --proof entry.proof --vkey node.vkey`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) (err error) {
			if (len(args) == 1) == (receipt != "") {
				return usageErrorf("name an entry, or a receipt with --receipt")
			}
			if err := f.load(flags, cmd); err != nil {
				return err
			}
			if len(args) == 1 {
				if f.file != "" || proof != "" {
					return usageErrorf("the proof of an entry comes from a node or a data directory")
				}
				return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error { return a.printProof(ctx, n, args[0], out) })(cmd, nil)
			}
			if f.receipt, err = readReceipt(receipt); err != nil {
				return err
			}
			if proof != "" {
				text, err := readNamed(proof)
				if err != nil {
					return err
				}
				return a.checkProof(text, &f, "")
			}
			remote := f.file == "" && (flags.url != "" || a.getenv("ASAP_NODE") != "")
			if remote {
				return a.withNode(flags, func(ctx context.Context, n *nodeAPI) error { return a.proveByNode(ctx, n, &f) })(cmd, nil)
			}
			v, err := a.verify(cmd, flags, &f)
			if err != nil {
				return err
			}
			if v.Valid && !a.json {
				fmt.Fprintf(a.out, "entry %d (%s) of the receipt is in the log\n", f.receipt.Seq, plain(f.receipt.ID))
			}
			return a.showVerdict(v, &f)
		}),
	}
	f.add(cmd)
	cmd.Flags().StringVar(&receipt, "receipt", "", "file with a receipt, or with an answer that holds one")
	cmd.Flags().StringVar(&proof, "proof", "", "file with a proof (C2SP tlog-proof), instead of a log")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write the proof to")
	return cmd
}

// provenEntry is the answer of GET /audit/logs/{id}?proof=1.
type provenEntry struct {
	ID     string `json:"id"`
	Seq    int64  `json:"seq"`
	Hash   string `json:"hash"`
	Octets string `json:"octets"`
	Proof  string `json:"proof"`
}

func (n *nodeAPI) provenEntry(ctx context.Context, id string) (e provenEntry, err error) {
	return e, n.get(ctx, "/audit/logs/"+url.PathEscape(id), url.Values{"proof": {"1"}}, &e)
}

func (a *app) printProof(ctx context.Context, n *nodeAPI, id, out string) error {
	e, err := n.provenEntry(ctx, id)
	if err != nil {
		return err
	}
	if out != "" && out != "-" {
		return os.WriteFile(out, []byte(e.Proof), 0o644) //nolint:gosec // it is for others
	}
	return a.answer(e, func(w io.Writer) error {
		_, err := io.WriteString(w, e.Proof)
		return err
	})
}

// proveByNode asks a node for the proof and checks it here.
func (a *app) proveByNode(ctx context.Context, n *nodeAPI, f *auditFlags) error {
	e, err := n.provenEntry(ctx, f.receipt.ID)
	if err != nil {
		return err
	}
	octets, err := base64.StdEncoding.DecodeString(e.Octets)
	if err != nil {
		return stateErrorf("read the node's answer: %w", err)
	}
	entry, err := audit.ParseEntry(octets)
	if err != nil || sha256.Sum256(octets) != f.receipt.Hash || entry.ID != f.receipt.ID || entry.Seq != f.receipt.Seq {
		return refusedErrorf("the node has another entry %d under the id %s than the receipt says: %s", e.Seq, f.receipt.ID, hex.EncodeToString(entry.Hash[:]))
	}
	own := ""
	if len(f.keys) == 0 {
		var head signedHead
		n.accept = "application/json"
		if err := n.get(ctx, "/audit/checkpoint", nil, &head); err != nil {
			return err
		}
		own = head.VKey
	}
	return a.checkProof([]byte(e.Proof), f, own)
}

// checkProof checks a proof for the receipt. Without a pinned key that of the
// node is used, which proves nothing against the node.
func (a *app) checkProof(text []byte, f *auditFlags, own string) error {
	vkeys := f.keys
	if len(vkeys) == 0 && own != "" {
		vkeys = []string{own}
	}
	if len(vkeys) == 0 {
		return usageErrorf("--proof needs the log's key: --vkey")
	}
	keys, err := audit.ParseKeys(vkeys...)
	if err != nil {
		return usageErrorf("--vkey: %w", err)
	}
	p, err := audit.ParseProof(text)
	if err != nil {
		return refusedErrorf("%w", err)
	}
	c, err := p.Check(keys, *f.receipt)
	if err != nil {
		return refusedErrorf("entry %d (%s) is not proven to be in the log: %w", f.receipt.Seq, f.receipt.ID, err)
	}
	answer := struct {
		Valid  bool   `json:"valid"`
		Origin string `json:"origin"`
		Seq    int64  `json:"seq"`
		ID     string `json:"id"`
		Size   int64  `json:"size"`
		Pinned bool   `json:"key_pinned"`
	}{true, c.Origin, f.receipt.Seq, f.receipt.ID, c.Size, len(f.keys) > 0}
	err = a.answer(answer, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "entry %d (%s) of the receipt is in the log of %s, sealed at %d entries\n", f.receipt.Seq, f.receipt.ID, c.Origin, c.Size)
		return err
	})
	if err == nil && len(f.keys) == 0 && !a.json {
		fmt.Fprintln(a.errOut, "no key was pinned: the proof is checked with the key the node says is its own; --vkey FILE pins one")
	}
	return err
}
