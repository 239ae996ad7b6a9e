.PHONY: style quality test test-examples test-slow test-gpu

style:
	ruff check --fix .
	ruff format .

quality:
	ruff check .
	ruff format --check .

test:
	python -m pytest -n auto --dist loadfile

test-examples:
	python -m pytest -n auto --dist loadfile tests/examples

test-slow:
	python -m pytest -n auto --dist loadfile -m slow

test-gpu:
	python -m pytest -m gpu
