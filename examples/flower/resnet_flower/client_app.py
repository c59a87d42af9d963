"""The program of a node: train the model of the server on the images of this machine, which stay here.

The settings of a node (`flower-supernode --node-config`) are `images`, a directory with one directory per class, and
`client`, its number from 0. In Flower's own simulation, the directories in `simulated-images` are those of the clients.
"""

import functools
import os

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from resnet_flower import arrays, recipe
from resnet_jax.data import client_folders
from resnet_jax.errors import UserError
from resnet_jax.training.federated_client import LocalClient

app = ClientApp()


@functools.cache
def open_client(images: str, client: int, classes: str) -> LocalClient:
    """Open the images of this node and compile the train step, once per process."""
    return LocalClient(recipe.get_config(), client, client_folders.open_client(images, classes.split(",")))


def place(context: Context) -> tuple[str, int]:
    """Return the directory of the images of this node, and the number of its client."""
    node = context.node_config
    if "images" in node:
        return str(node["images"]), int(node["client"])
    number, root = int(node["partition-id"]), str(context.run_config["simulated-images"])
    clients = client_folders.open_clients(f"clients:{root}")["train"].clients
    if number >= len(clients):
        raise UserError(f"{root} has only {len(clients)} clients. Simulate as many nodes (num-supernodes).")
    return os.path.join(root, clients[number]), number


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for the steps of a round."""
    client = open_client(*place(context), str(context.run_config["classes"]))
    number = int(message.content["config"]["server-round"]) - 1
    variables, metrics = client.train(arrays.from_record(message.content["arrays"]), number)
    content = {
        "arrays": arrays.to_record(variables),
        "metrics": MetricRecord({"num-examples": client.num_examples, "loss": metrics["loss"]}),
    }
    return Message(content=RecordDict(content), reply_to=message)
