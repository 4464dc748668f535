// grpc-go with round_robin: grpc_go_client ADDRESSES RATE MESSAGE, until standard input ends.
package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

const (
	method  = "/inference.GRPCInferenceService/ModelInfer"
	timeout = 20 * time.Second
)

// raw passes bytes through.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *(v.(*[]byte)) = data; return nil }
func (raw) Name() string                       { return "proto" }

type outcome struct {
	Answered int            `json:"answered"`
	LongestS float64        `json:"longest_s"`
	Errors   map[string]int `json:"errors"`
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	rate, err := strconv.ParseFloat(os.Args[2], 64)
	check(err)
	message, err := os.ReadFile(os.Args[3])
	check(err)
	addresses := manual.NewBuilderWithScheme("restarts")
	var state resolver.State
	for _, address := range strings.Split(os.Args[1], ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	channel, err := grpc.NewClient("restarts:///gateways",
		grpc.WithResolvers(addresses),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: timeout,
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	check(err)
	over := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(over) }()

	met := outcome{Errors: map[string]int{}}
	var lock sync.Mutex
	var calls sync.WaitGroup
	ask := func(due time.Time) {
		defer calls.Done()
		limited, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		var answer []byte
		err := channel.Invoke(limited, method, message, &answer)
		took := time.Since(due).Seconds()
		lock.Lock()
		defer lock.Unlock()
		if err != nil {
			met.Errors[err.Error()]++
		} else {
			met.Answered++
			met.LongestS = max(met.LongestS, took)
		}
	}
	begin := time.Now()
	for sent := 0; ; sent++ {
		due := begin.Add(time.Duration(float64(sent) / rate * float64(time.Second)))
		select {
		case <-over:
			calls.Wait()
			check(json.NewEncoder(os.Stdout).Encode(met))
			return
		case <-time.After(time.Until(due)):
		}
		calls.Add(1)
		go ask(due)
	}
}
