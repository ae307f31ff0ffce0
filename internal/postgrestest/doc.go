// Package postgrestest runs a throwaway PostgreSQL for tests.
//
// The model: a [Cluster] is a server of its own in a temporary directory, on a
// Unix socket that nobody else sees, as durable as a real one (fsync is on). It
// is run by an unprivileged user, because PostgreSQL refuses to run as root, and
// ends with the process that started it, however that ends. A process that tests
// starts one in its TestMain, and each test takes a database of its own; tests
// that stop or kill the server start another.
//
// Only tests with the build tag postgres need it: make postgres runs them.
package postgrestest
