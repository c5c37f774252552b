// Rank documents on a server from Go: go run . localhost:50051
//
// README.md beside this file says how to generate the package rerank.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	"example.org/rank/rerank"
)

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	check(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	documents := []string{"Paris is the capital of France.", "Dune is a novel by Frank Herbert."}
	request := &rerank.RerankRequest{Query: "who wrote dune?", Documents: documents, TopK: 1}
	response, err := rerank.NewRerankerClient(connection).Rerank(ctx, request)
	check(err)
	for _, result := range response.Results {
		fmt.Printf("%.3f %s\n", result.Score, documents[result.Index])
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
