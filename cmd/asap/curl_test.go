package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// curlStatus is the little of curl that the documents use, so that their tests need
// nothing but Go: -s, -f, -H HEADER, -X METHOD, -d BODY or @FILE, and a URL.
func curlStatus(args []string) int {
	method, url, body, fail := http.MethodGet, "", "", false
	header := http.Header{}
	for i := 0; i < len(args); i++ {
		value := func() string {
			if i++; i < len(args) {
				return args[i]
			}
			return ""
		}
		switch args[i] {
		case "-s", "-sS":
		case "-f", "-fsS":
			fail = true
		case "-X":
			method = value()
		case "-H":
			name, text, _ := strings.Cut(value(), ": ")
			header.Add(name, text)
		case "-d":
			body, method = value(), http.MethodPost
			if name, isFile := strings.CutPrefix(body, "@"); isFile {
				text, err := os.ReadFile(name)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 26
				}
				body = string(text)
			}
		default:
			if strings.HasPrefix(args[i], "-") || url != "" {
				fmt.Fprintln(os.Stderr, "this stand-in for curl does not know", args[i])
				return 2
			}
			url = args[i]
		}
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	req.Header = header
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 7
	}
	defer res.Body.Close()
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 18
	}
	if fail && res.StatusCode >= 400 {
		return 22
	}
	return 0
}
