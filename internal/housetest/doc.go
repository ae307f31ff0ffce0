// Package housetest checks the rules of the house that a compiler does not:
// who may import whom, which modules may be used, what tests must not do, and
// that packages and links in the documentation say what they promise. It reads
// the source tree; the checks are its tests, and nothing imports it.
package housetest
