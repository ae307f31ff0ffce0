module github.com/asap-protocol/asap-go/interop

go 1.26.0

replace github.com/asap-protocol/asap-go => ../

require (
	github.com/asap-protocol/asap-go v0.0.0-00010101000000-000000000000
	github.com/go-json-experiment/json v0.0.0-20260820222146-c27c302e5fc3
)

require (
	github.com/andybalholm/brotli v1.2.8 // indirect
	github.com/coder/websocket v1.8.15 // indirect
	github.com/oklog/ulid/v2 v2.1.2 // indirect
	golang.org/x/sync v0.24.0 // indirect
)
