module github.com/asap-protocol/asap-go/difftest

go 1.26.0

replace github.com/asap-protocol/asap-go => ../

require (
	github.com/DataDog/sketches-go v1.4.8
	github.com/asap-protocol/asap-go v0.0.0-00010101000000-000000000000
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/go-json-experiment/json v0.0.0-20260820222146-c27c302e5fc3
	github.com/golang-jwt/jwt/v5 v5.3.1
)

require (
	github.com/oklog/ulid/v2 v2.1.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
