// Rank documents on a server from Node.js: npm install @grpc/grpc-js @grpc/proto-loader
//
//     node examples/grpc_client.mjs localhost:50051 proto/edgerank/v1/rerank.proto

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [, , address, proto] = process.argv;
const definition = loader.loadSync(proto, { defaults: true });
const { edgerank } = grpc.loadPackageDefinition(definition);
const client = new edgerank.v1.Reranker(address, grpc.credentials.createInsecure());

const documents = ["Paris is the capital of France.", "Dune is a novel by Frank Herbert."];
const request = { query: "who wrote dune?", documents, topK: 1 };
client.rerank(request, { deadline: Date.now() + 5000 }, (error, response) => {
  if (error) {
    console.error(`${error.code}: ${error.details}`);
    process.exitCode = 1;
  } else {
    for (const { index, score } of response.results) {
      console.log(score.toFixed(3), documents[index]);
    }
  }
  client.close();
});
