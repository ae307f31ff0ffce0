package main

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

func (a *app) manifestCommand() *cobra.Command {
	return group(&cobra.Command{Use: "manifest", Short: "Make, sign and verify agent manifests"},
		a.manifestInitCommand(),
		a.manifestSignCommand(),
		a.manifestVerifyCommand(),
		a.manifestInfoCommand(),
	)
}

// written is the answer of commands that write one file.
type written struct {
	Path       string        `json:"path"`
	ManifestID asap.AgentURN `json:"manifest_id"`
	PublicKey  string        `json:"public_key,omitempty"` // of the signature
}

// deliver writes document to the file out, or to standard output if there is no
// name. message is what is said about a file.
func (a *app) deliver(document []byte, out string, replace bool, message string, answer written) error {
	if out == "" {
		_, err := fmt.Fprintf(a.out, "%s\n", bytes.TrimSuffix(document, []byte("\n")))
		return err
	}
	if isDirectory(out) {
		return badValuef("Output path is a directory: %s", out)
	}
	if err := writeFileAtomic(out, document, 0o644, replace); err != nil {
		if errors.Is(err, errExists) {
			return refusedErrorf("%s exists; --force replaces it", out)
		}
		return err
	}
	answer.Path = out
	return a.answer(answer, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s written to %s\n", message, out)
		return err
	})
}

// presentable returns a JSON document as v1.3.0 writes one to a file: indented by
// two blanks, everything beyond ASCII escaped, no final line feed.
func presentable(document []byte) ([]byte, error) {
	indented := jsontext.Value(document)
	if err := indented.Indent(jsontext.WithIndent("  ")); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for rest := indented; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		switch {
		case r < 0x7F: // DEL is escaped too
			b.WriteByte(byte(r))
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes(), nil
}

func (a *app) manifestInitCommand() *cobra.Command {
	var (
		id, name, version, description, endpoint, events, out string
		skills                                                []string
		force                                                 bool
	)
	cmd := &cobra.Command{
		Use:   "init --id URN",
		Short: "Write a manifest to start from",
		Example: `  asap manifest init --id urn:asap:agent:research --skill "search=Searches the web" --out manifest.json
  asap manifest sign manifest.json --key node.key --out signed.json`,
		Args: cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			urn, err := asap.ParseAgentURN(id)
			if err != nil {
				return badValuef("--id: %w", err)
			}
			m := &asap.Manifest{
				ID:           urn,
				Name:         cmp.Or(name, id[strings.LastIndexByte(id, ':')+1:]),
				Version:      version,
				Description:  description,
				Capabilities: asap.Capability{ASAPVersion: asap.DefaultASAPVersion},
				Endpoints:    asap.Endpoint{ASAP: endpoint},
				TTLSeconds:   asap.DefaultTTLSeconds,
			}
			if events != "" {
				m.Endpoints.Events = &events
			}
			for _, skill := range skills {
				skillID, text, _ := strings.Cut(skill, "=")
				if skillID == "" {
					return badValuef("--skill: want ID=DESCRIPTION, got %q", skill)
				}
				m.Capabilities.Skills = append(m.Capabilities.Skills, asap.Skill{ID: skillID, Description: cmp.Or(text, skillID)})
			}
			document, err := m.MarshalJSON()
			if err != nil {
				return err
			}
			if _, err := asap.ParseManifest(document); err != nil {
				return badValuef("Invalid manifest: %w", err)
			}
			document, err = presentable(document)
			if err != nil {
				return err
			}
			return a.deliver(append(document, '\n'), out, force, "Manifest", written{ManifestID: urn})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&id, "id", "", "agent URN, urn:asap:agent:NAME (required)")
	flags.StringVar(&name, "name", "", "name for people (default: the last part of the URN)")
	flags.StringVar(&version, "version", "1.0.0", "version of the agent")
	flags.StringVar(&description, "description", "An ASAP agent", "what the agent does")
	flags.StringVar(&endpoint, "endpoint", "http://127.0.0.1:8080/asap", "where the agent takes requests")
	flags.StringVar(&events, "events", "", "where the agent takes WebSocket connections")
	flags.StringArrayVar(&skills, "skill", nil, "a skill as ID=DESCRIPTION; may be repeated")
	flags.StringVarP(&out, "out", "o", "", "file to write (default: standard output)")
	flags.BoolVar(&force, "force", false, "replace an existing file")
	mustRequire(cmd, "id")
	return cmd
}

func (a *app) manifestSignCommand() *cobra.Command {
	var keyFile, out, trust string
	cmd := &cobra.Command{
		Use:   "sign MANIFEST_FILE --key FILE",
		Short: "Sign a manifest",
		Long: `Reads a manifest, fills in the defaults, and signs it: Ed25519 over its RFC 8785
form. The result carries the public key. Writes to standard output without --out.`,
		Example: "  asap manifest sign manifest.json --key node.key --out signed.json",
		Args:    cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			key, err := a.readPrivateKey("Key file", keyFile)
			if err != nil {
				return err
			}
			data, err := a.readInput("Manifest file", args[0])
			if err != nil {
				return err
			}
			if !jsontext.Value(data).IsValid() {
				return badValuef("Invalid JSON in manifest: %w", explainJSON(data))
			}
			manifest, err := asap.ParseManifest(data)
			if err != nil {
				return badValuef("Invalid manifest: %w", err)
			}
			level := asap.TrustLevel(trust)
			if level != asap.TrustSelfSigned && level != asap.TrustVerified {
				return badValuef("--trust-level must be self-signed or verified")
			}
			signed, err := asap.SignManifestAs(manifest, key, level)
			if err != nil {
				return err
			}
			document, err := signed.MarshalJSON()
			if err != nil {
				return err
			}
			document, err = presentable(document)
			if err != nil {
				return err
			}
			return a.deliver(document, out, true, "Signed manifest",
				written{ManifestID: manifest.ID, PublicKey: asap.EncodePublicKey(asap.PublicKeyOf(key))})
		}),
	}
	cmd.Flags().StringVarP(&keyFile, "key", "k", "", "private key, PEM (required)")
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to write (default: standard output)")
	cmd.Flags().StringVar(&trust, "trust-level", string(asap.TrustSelfSigned), "self-signed, or verified when an authority signs")
	mustRequire(cmd, "key")
	return cmd
}

// readSigned reads a signed manifest; every fault of the file is a usage error.
func (a *app) readSigned(name string) (*asap.SignedManifest, error) {
	data, err := a.readInput("File", name)
	if err != nil {
		return nil, err
	}
	if !jsontext.Value(data).IsValid() {
		return nil, badValuef("Invalid JSON: %w", explainJSON(data))
	}
	signed, err := asap.ParseSignedManifest(data)
	if err != nil {
		return nil, badValuef("Invalid signed manifest format: %w", err)
	}
	return signed, nil
}

// explainJSON says where and why data is not one strict JSON value.
func explainJSON(data []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(data))
	if err := d.SkipValue(); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("empty document")
		}
		return err
	}
	return fmt.Errorf("data after the value, at byte %d", d.InputOffset())
}

func (a *app) manifestInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info SIGNED_MANIFEST_FILE",
		Short: "Print what a signed manifest claims, without verifying it",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			signed, err := a.readSigned(args[0])
			if err != nil {
				return err
			}
			type answer struct {
				ManifestID  asap.AgentURN   `json:"manifest_id"`
				Name        string          `json:"name"`
				TrustLevel  asap.TrustLevel `json:"trust_level"`
				ASAPVersion string          `json:"asap_version"`
				Verified    bool            `json:"verified"` // always false: nothing was verified
			}
			m := signed.Manifest
			info := answer{m.ID, m.Name, signed.TrustLevel, m.Capabilities.ASAPVersion, false}
			return a.answer(info, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Manifest ID: %s\nName: %s\nTrust level: %s\nASAP version: %s\n",
					plain(string(info.ManifestID)), plain(info.Name), info.TrustLevel, plain(info.ASAPVersion))
				return err
			})
		}),
	}
}

func (a *app) manifestVerifyCommand() *cobra.Command {
	var keyFile string
	var authorityFiles []string
	cmd := &cobra.Command{
		Use:   "verify SIGNED_MANIFEST_FILE",
		Short: "Verify the signature of a manifest",
		Long: `Verifies the signature with the given key, or with the public key the manifest
carries. That alone proves only that nothing was changed since somebody signed
it: the trust level in the file is a claim. With --ca the manifest must claim
"verified" and be signed by one of the given authorities.`,
		Example: `  asap manifest verify signed.json
  asap manifest verify signed.json --public-key provider.pub
  asap manifest verify signed.json --ca authority.pub`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			signed, err := a.readSigned(args[0])
			if err != nil {
				return err
			}
			var options asap.VerifyOptions
			if keyFile != "" {
				if options.PublicKey, err = a.readPublicKey("Public key file", keyFile); err != nil {
					return err
				}
			}
			var authorities []ed25519.PublicKey
			for _, name := range authorityFiles {
				key, err := a.readPublicKey("Public key file", name)
				if err != nil {
					return err
				}
				authorities = append(authorities, key)
			}
			verdict := asap.VerifyManifest(signed, options)
			if verdict == nil && len(authorities) > 0 {
				verdict = asap.VerifyManifestCA(signed, authorities)
			}
			return a.tellVerdict(signed, args[0], verdict, len(authorities) > 0)
		}),
	}
	cmd.Flags().StringVarP(&keyFile, "public-key", "k", "", "public or private key, PEM (default: the key in the manifest)")
	cmd.Flags().StringArrayVar(&authorityFiles, "ca", nil, "public key of a trusted authority, PEM; may be repeated")
	return cmd
}

// tellVerdict writes what came out of a verification. A failed one is an answer
// under --json, and an error otherwise; the exit status is the same.
func (a *app) tellVerdict(signed *asap.SignedManifest, name string, verdict error, byAuthority bool) error {
	type answer struct {
		Valid        bool            `json:"valid"`
		File         string          `json:"file"`
		ManifestID   asap.AgentURN   `json:"manifest_id"`
		TrustLevel   asap.TrustLevel `json:"trust_level"`
		TrustChecked bool            `json:"trust_checked"` // against an authority; else the level is a claim
		Reason       string          `json:"reason,omitempty"`
	}
	result := answer{verdict == nil, name, signed.Manifest.ID, signed.TrustLevel, byAuthority, ""}
	if verdict == nil {
		return a.answer(result, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s (trust: %s): %s\n", a.paint(ansiGreen, "Signature valid"), result.TrustLevel, name)
			return err
		})
	}
	result.Reason = verdict.Error()
	var refusal *asap.Error
	if errors.As(verdict, &refusal) && refusal.Message != "" {
		result.Reason = refusal.Message
	}
	if !a.json {
		return refusedErrorf("Verification failed: %s", result.Reason)
	}
	if err := writeJSON(a.out, result); err != nil {
		return err
	}
	return quietFailure(exitRefused)
}
