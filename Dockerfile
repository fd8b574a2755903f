# A worker: docker build -t order-worker .
# It needs TEMPORAL_ADDRESS and SHOP_DATA, the shop that all workers share; `docker stop` lets it drain.
FROM python:3.14.7-slim-trixie

RUN useradd --uid 1000 --create-home worker
WORKDIR /app

# Wheels only: nothing is compiled, so there is no compiler to remove. Before the code: a change there installs nothing.
COPY requirements-worker.lock ./
RUN pip install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements-worker.lock

# .dockerignore says what that is. It belongs to root: the worker cannot change its own code.
COPY . ./
# Nor can it keep bytecode here: the workflow sandbox would compile workflows.py anew for every order.
RUN python -m compileall -q .

USER 1000
# Exec form: a shell before it would swallow the SIGTERM that drains the worker.
ENTRYPOINT ["python", "run_worker.py"]
