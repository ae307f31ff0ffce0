package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	asap "github.com/asap-protocol/asap-go"
)

// Names of the files a node keeps in its data directory, readable by their owner
// only.
const (
	KeyFile           = "node.key"       // the node's Ed25519 key, PKCS#8 PEM
	OperatorTokenFile = "operator.token" // the operator's bearer token
	LedgerFile        = "asap.db"        // the ledger, unless the configuration puts it elsewhere
)

// OperatorTokenPrefix starts every operator token, so that secret scanners and
// people recognise one.
const OperatorTokenPrefix = "asap_op_"

// openData makes the data directory if it is not there and checks that it can
// be written, so that a read-only one is reported before anything is served.
func openData(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".write-check-*")
	if err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w", dir, errors.Unwrap(err))
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// ensureKey reads the node's key, or creates it in a directory without a ledger
// yet. Beside a ledger a missing key is an error: a new one could not sign what
// the old one began.
func ensureKey(dir string, ledgerExists bool) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, KeyFile)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		key, err := asap.ReadPrivateKeyPEM(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case ledgerExists:
		return nil, fmt.Errorf("%s is missing, but there is a ledger it belongs to: put the key back; it is never made anew", path)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	pem, err := asap.EncodePrivateKeyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, WriteSecret(path, pem, false)
}

// key is the node's key: the one that is given, or that of the data directory.
func (c *Config) key(ledgerExists bool) (ed25519.PrivateKey, error) {
	if c.NodeKey == "" {
		return ensureKey(c.Data, ledgerExists)
	}
	text, err := secret(c.NodeKey)
	if err != nil {
		return nil, fmt.Errorf("%w: node_key: %w", ErrConfig, err)
	}
	key, err := asap.ReadPrivateKeyPEM(text)
	if err != nil {
		return nil, fmt.Errorf("%w: node_key: %w", ErrConfig, err)
	}
	return key, nil
}

// operatorToken is the operator's token: the one that is given, or that of the
// data directory.
func (c *Config) operatorToken() (string, error) {
	if c.Operator == "" {
		return ReadOperatorToken(c.Data)
	}
	text, err := secret(c.Operator)
	if err != nil {
		return "", fmt.Errorf("%w: operator_token: %w", ErrConfig, err)
	}
	if len(text) < minOperatorToken {
		return "", fmt.Errorf("%w: operator_token: it is shorter than %d characters", ErrConfig, minOperatorToken)
	}
	return string(text), nil
}

// ensureOperatorToken creates the operator token if there is none.
func (c *Config) ensureOperatorToken() error {
	_, err := c.operatorToken()
	if c.Operator == "" && errors.Is(err, fs.ErrNotExist) {
		_, err = NewOperatorToken(c.Data)
	}
	return err
}

// minOperatorToken is the fewest characters an operator token has.
const minOperatorToken = 32

// ReadOperatorToken returns the operator token of the data directory.
func ReadOperatorToken(dir string) (string, error) {
	path := filepath.Join(dir, OperatorTokenFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if len(token) < minOperatorToken {
		return "", fmt.Errorf("%s holds no operator token: it is shorter than %d characters", path, minOperatorToken)
	}
	return token, nil
}

// NewOperatorToken writes a fresh operator token to the data directory, in place
// of the one that may be there.
func NewOperatorToken(dir string) (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	token := OperatorTokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, WriteSecret(filepath.Join(dir, OperatorTokenFile), []byte(token+"\n"), true)
}

// WriteSecret writes a file that only its owner may read, complete or not at
// all: it is never seen half written or with a wider mode. Without replace an
// existing file is an error.
func WriteSecret(path string, content []byte, replace bool) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(tmp.Name())))
		}
	}()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if replace {
		err = os.Rename(tmp.Name(), path)
	} else if err = os.Link(tmp.Name(), path); err == nil {
		err = os.Remove(tmp.Name())
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
