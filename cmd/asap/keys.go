package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/spf13/cobra"
)

func (a *app) keysCommand() *cobra.Command {
	return group(&cobra.Command{Use: "keys", Short: "Make and look at Ed25519 keys"},
		a.keysGenerateCommand(),
		a.keysShowCommand(),
	)
}

func (a *app) keysGenerateCommand() *cobra.Command {
	var out string
	var noReplace bool
	cmd := &cobra.Command{
		Use:   "generate --out FILE",
		Short: "Make a new Ed25519 key",
		Long: `Makes a new Ed25519 key and writes the private key as unencrypted PKCS#8 PEM.
The file is readable by its owner alone from the moment it exists.`,
		Example: "  asap keys generate --out node.key",
		Args:    cobra.NoArgs,
		RunE: work(func(*cobra.Command, []string) error {
			if out == "" {
				return badValuef("Output path is empty")
			}
			if isDirectory(out) {
				return badValuef("Output path is a directory: %s", out)
			}
			public, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			encoded, err := asap.EncodePrivateKeyPEM(private)
			if err != nil {
				return err
			}
			_, statErr := os.Lstat(out)
			replaced := statErr == nil
			if err := writeFileAtomic(out, encoded, 0o600, !noReplace); err != nil {
				if errors.Is(err, errExists) {
					return refusedErrorf("%s holds a key already, and --no-replace was given", out)
				}
				return err
			}
			if replaced {
				a.warnf("the key that was in %s is gone", out)
			}
			type answer struct {
				Path      string `json:"path"`
				Algorithm string `json:"algorithm"`
				PublicKey string `json:"public_key"`
			}
			return a.answer(answer{out, "Ed25519", asap.EncodePublicKey(public)}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Private key written to %s\n", out)
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to write the private key to (required)")
	cmd.Flags().BoolVar(&noReplace, "no-replace", false, "refuse if the file exists")
	mustRequire(cmd, "out")
	return cmd
}

func (a *app) keysShowCommand() *cobra.Command {
	var keyFile, format string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Print the public key of a key file",
		Long: `Prints the public half of a private or public key in PEM. The private half is
never printed.`,
		Example: `  asap keys show node.key
  asap keys show node.key --format base64`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && keyFile != "":
				return usageErrorf("name the key file once: as the argument or with --key")
			case len(args) == 1:
				keyFile = args[0]
			case keyFile == "":
				return usageErrorf("Missing argument 'FILE'")
			}
			public, err := a.readPublicKey("Key file", keyFile)
			if err != nil {
				return err
			}
			return a.showKey(public, format)
		}),
	}
	cmd.Flags().StringVarP(&keyFile, "key", "k", "", "the key file, instead of the argument")
	cmd.Flags().StringVar(&format, "format", "text", "text, base64, hex, jwk or pem")
	return cmd
}

// keyDescription is what can be said about a public key.
type keyDescription struct {
	Algorithm   string    `json:"algorithm"`
	PublicKey   string    `json:"public_key"` // standard base64 of the 32 bytes, as in manifests
	Hex         string    `json:"public_key_hex"`
	Fingerprint string    `json:"fingerprint"` // "SHA256:" and unpadded base64
	JWK         publicJWK `json:"jwk"`
}

// publicJWK is an Ed25519 public key as RFC 8037 writes it.
type publicJWK struct {
	KeyType string `json:"kty"`
	Curve   string `json:"crv"`
	X       string `json:"x"`
}

func describeKey(public ed25519.PublicKey) keyDescription {
	digest := sha256.Sum256(public)
	return keyDescription{
		Algorithm:   "Ed25519",
		PublicKey:   asap.EncodePublicKey(public),
		Hex:         hex.EncodeToString(public),
		Fingerprint: "SHA256:" + base64.RawStdEncoding.EncodeToString(digest[:]),
		JWK:         publicJWK{"OKP", "Ed25519", base64.RawURLEncoding.EncodeToString(public)},
	}
}

func (a *app) showKey(public ed25519.PublicKey, format string) error {
	d := describeKey(public)
	var text string
	switch format {
	case "text":
		text = fmt.Sprintf("Algorithm: %s\nPublic key: %s\nFingerprint: %s", d.Algorithm, d.PublicKey, d.Fingerprint)
	case "base64":
		text = d.PublicKey
	case "hex":
		text = d.Hex
	case "jwk":
		text = fmt.Sprintf(`{"kty":%q,"crv":%q,"x":%q}`, d.JWK.KeyType, d.JWK.Curve, d.JWK.X)
	case "pem":
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return err
		}
		text = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		text = text[:len(text)-1]
	default:
		return badValuef("--format must be text, base64, hex, jwk or pem")
	}
	return a.answer(d, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

// readPrivateKey reads an unencrypted Ed25519 private key in PKCS#8 PEM, and
// warns if others can read the file or the key is old. what names the file in
// errors.
func (a *app) readPrivateKey(what, name string) (ed25519.PrivateKey, error) {
	data, err := a.readKeyFile(what, name)
	if err != nil {
		return nil, err
	}
	key, err := asap.ReadPrivateKeyPEM(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.warnAboutKeyFile(name)
	return key, nil
}

// readPublicKey reads a public key in PEM, or derives it from a private one.
func (a *app) readPublicKey(what, name string) (ed25519.PublicKey, error) {
	data, err := a.readKeyFile(what, name)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil && block.Type == "PUBLIC KEY" {
		key, err := parsePublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return key, nil
	}
	private, err := asap.ReadPrivateKeyPEM(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.warnAboutKeyFile(name)
	return asap.PublicKeyOf(private), nil
}

func (a *app) readKeyFile(what, name string) ([]byte, error) {
	if isDirectory(name) {
		return nil, badValuef("Key path is not a file: %s", name)
	}
	return a.readInput(what, name)
}

// maxKeyAge is how old a key file may be before its use is warned about.
const maxKeyAge = 365 * 24 * time.Hour

func (a *app) warnAboutKeyFile(name string) {
	info, err := os.Stat(name)
	if err != nil { // standard input, or gone since it was read
		return
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		a.warnf("key file %s has open permissions (0o%o). Consider restricting to 0600.", name, mode)
	}
	if age := time.Since(info.ModTime()); age > maxKeyAge {
		a.warnf("key file %s is %d days old. Consider a new key.", name, int(age.Hours()/24))
	}
}

// parsePublicKey reads the PKIX form of an Ed25519 public key.
func parsePublicKey(der []byte) (ed25519.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, asap.ErrKey
	}
	if err := asap.CheckPublicKey(key); err != nil {
		return nil, err
	}
	return key, nil
}
