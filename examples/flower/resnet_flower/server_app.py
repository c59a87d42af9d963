"""The program of the server: send out the model, average what the nodes send back, and save the result."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from resnet_flower import arrays, recipe
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.export.weights import export_weights
from resnet_jax.models import factory
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel
from resnet_jax.training.federated_client import initial_variables

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for the rounds of the recipe, and write the weights as a file that `init_from` reads."""
    config = recipe.get_config()
    classes = tuple(str(context.run_config["classes"]).split(","))
    nodes = int(context.run_config["min-nodes"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    initial = arrays.to_record(initial_variables(config, len(classes)))
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=config.num_epochs)
    if not result.arrays:
        raise UserError("no node has sent a model back. The log of each node says why.")
    trained = TrainedModel(
        config=config,
        classes=classes,
        model=factory.from_config(config, len(classes)),
        variables=arrays.from_record(result.arrays),
        preprocess=Preprocess.from_config(config.dataset),
        step=config.num_epochs,
        mesh=parallel.make_mesh(),
    )
    export_weights(trained, str(context.run_config["save-to"]))
