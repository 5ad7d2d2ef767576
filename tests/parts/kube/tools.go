//go:build tools

// Package kube pins the programs that the tests build from Go modules.
package kube

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
