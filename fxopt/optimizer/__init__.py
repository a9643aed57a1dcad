"""One model through all steps, with its report; or through a pipeline alone."""

from fxopt.optimizer.metric import Metric
from fxopt.optimizer.optimizing import Model, OptimizeResult, Retrain, optimize
from fxopt.optimizer.pipelines import Pipeline, run_pipeline

__all__ = ["Metric", "Model", "OptimizeResult", "Pipeline", "Retrain", "optimize", "run_pipeline"]
