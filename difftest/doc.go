// Package difftest holds package delegation against the JWT libraries of others:
// what it accepts, they accept too, with the same claims. It is a module of its
// own, so that those libraries are no dependencies of the product. The latency
// sketch is held against DataDog's in the same way.
package difftest
