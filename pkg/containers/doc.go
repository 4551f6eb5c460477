// Package containers tests compose.yaml on real containers, as a user has them:
// brought up from nothing, scaled, rolled out, killed and brought up again, while
// people talk through the front. `make test-compose` runs it; without the build
// tag containers it is empty, since it needs a Docker engine and images.
//
// It refuses to look into the processes: what it knows comes through the front,
// from docker, and from RabbitMQ's and HAProxy's own pages.
package containers
