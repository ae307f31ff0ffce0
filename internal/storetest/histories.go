package storetest

import "testing"

func testHistories(*testing.T, func(testing.TB) Backend) {}
