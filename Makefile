# Everything runs in a virtual environment of its own; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000
NOTEBOOKS := $(wildcard chapters/*.ipynb)
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 300

.PHONY: help book zip test check mutants notebooks results serve bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

book: $(VENV)/.ready  ## build the book from the stored notebooks
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is in _build/html/index.html; 'make serve' shows it at http://localhost:$(PORT)"

zip: book  ## the built book as one file, to read offline
	cd _build && $(abspath $(BIN))/python -c "import shutil; \
		shutil.copytree('html', 'segmentation-from-scratch', dirs_exist_ok=True); \
		shutil.make_archive('segmentation-from-scratch', 'zip', '.', 'segmentation-from-scratch'); \
		shutil.rmtree('segmentation-from-scratch')"
	@echo "The file is _build/segmentation-from-scratch.zip; unpack it and open index.html"

test: $(VENV)/.ready  ## everything: lint, types, all tests, every notebook, the book in a browser
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(PYTEST) tests/parity  # apart: with the other packages a worker would need 3 GB
	OMP_NUM_THREADS=1 $(PYTEST) $(NBVAL) --durations=15 --ignore=tests/parity tests chapters

check: $(VENV)/.ready  ## lint, types and the fast tests, in a few minutes
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" tests

mutants: $(VENV)/.ready  ## change the code in small ways and see that a test notices each, in a few minutes
	$(BIN)/python tests/mutants.py

.PHONY: lint
lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.ready  ## execute every notebook in place and normalise it
	$(BIN)/python -m seglib.book.notebooks run $(NOTEBOOKS)

EXPERIMENT := $(BIN)/python -m seglib.book.experiments$(if $(GO_ON), --go-on)
MADE := $(if $(GO_ON),$(BIN)/python -m seglib.book.results chapters/weights/$$model.json,false)
STORE := $(BIN)/python -m seglib.book.experiments.from_run runs/$$model \
	--store chapters/weights/$$model.safetensors --out chapters/weights/$$model.json

# $(call camvid,fcn) trains fcn_tiny on CamVid; one recipe for all
camvid = $(BIN)/seglib train $(1)_tiny --data camvid --root $(CAMVID) --size 180x240 --steps 1000 --batch-size 8 \
	--lr 0.003 --warmup 50 --loss ce+dice --encoder chapters/weights/fcn_tiny.safetensors --eval-every 250 \
	--out runs/camvid_$(1) && \
	$(BIN)/python -m seglib.book.experiments.from_run runs/camvid_$(1) --root $(CAMVID) \
		--out chapters/results/camvid_$(1).json

results: $(VENV)/.ready  ## train the stored weights and repeat the measurements (hours; GO_ON=1 after a stop; NUCLEI=folder of dsb2018, COCO=folder of panoptic files, HIPPOCAMPUS=folder of msd, CAMVID, ISBI=folders of these, PHOTOS=Segment Anything's)
	for model in fcn_tiny unet_tiny deeplab_tiny; do \
		$(MADE) || { $(BIN)/seglib train $$model --data scenes --steps 3000 --eval-every 1000 --out runs/$$model && \
			$(STORE); } || exit 1; \
	done
	for model in mask_rcnn_tiny yolact_tiny condinst_tiny solov2_tiny panoptic_fpn_tiny mask2former_tiny; do \
		$(MADE) || { $(BIN)/seglib train $$model --data scenes --steps 4000 --eval-every 1000 \
			--encoder chapters/weights/fcn_tiny.safetensors --out runs/$$model && $(STORE); } || exit 1; \
	done
	model=sam_tiny; $(MADE) || { ACCELERATE_USE_CPU=true $(BIN)/torchrun --nproc_per_node 2 \
		-m seglib.book.experiments.sam_weights --steps 7000 900 \
		--encoder chapters/weights/condinst_tiny.safetensors --out runs/$$model && $(STORE) --images 30; }
	model=sam_tiny_levels; $(MADE) || { $(BIN)/python -m seglib.book.experiments.sam_weights --steps 800 150 \
		--levels object group class --weights chapters/weights/sam_tiny.safetensors --out runs/$$model && $(STORE) --images 30; }
	for model in unet3d_tiny nnunet_tiny; do \
		$(MADE) || { $(BIN)/seglib train $$model --data volumes --steps 2000 --eval-every 500 --out runs/$$model && \
			$(STORE); } || exit 1; \
	done
	$(EXPERIMENT) measuring --seeds 5 --steps 300 --out chapters/results/measuring_erased.json
	$(EXPERIMENT) fcn_strides --seeds 5 --steps 300 --scenes 1000 --out chapters/results/fcn_strides.json
	$(EXPERIMENT) fcn_details --seeds 5 --steps 150 --scenes 1000 --out chapters/results/fcn_details.json
	$(EXPERIMENT) fcn_upsampling --seeds 5 --steps 300 --scenes 1000 --out chapters/results/fcn_upsampling.json
	$(EXPERIMENT) unet_skips --seeds 5 --steps 300 --scenes 1000 --out chapters/results/unet_skips.json
	$(EXPERIMENT) unet_borders --seeds 5 --steps 200 --scenes 200 --out chapters/results/unet_borders.json
	$(EXPERIMENT) unet_details --seeds 5 --steps 200 --scenes 200 --out chapters/results/unet_details.json
	$(EXPERIMENT) deeplab_strides --seeds 5 --steps 300 --scenes 1000 --out chapters/results/deeplab_strides.json
	$(EXPERIMENT) deeplab_strides --seeds 3 --steps 2 --scenes 40 --out chapters/results/deeplab_costs.json  # on an idle machine
	$(EXPERIMENT) deeplab_branches --seeds 5 --steps 300 --scenes 1000 --out chapters/results/deeplab_branches.json
	$(EXPERIMENT) boxes_pyramid --seeds 5 --steps 300 --scenes 400 --out chapters/results/boxes_pyramid.json
	$(EXPERIMENT) roi_pooling --seeds 5 --steps 400 --scenes 500 --out chapters/results/roi_pooling.json
	$(EXPERIMENT) roi_position --seeds 5 --steps 160 --scenes 80 --out chapters/results/roi_position.json
	$(EXPERIMENT) mask_classes --seeds 5 --steps 300 --scenes 1000 --out chapters/results/mask_classes.json
	$(EXPERIMENT) mask_hole --seeds 1 --steps 300 --scenes 1000 --out chapters/results/mask_hole.json
	$(EXPERIMENT) broken_stages --seeds 1 --steps 500 --scenes 200 --out chapters/results/broken_stages.json
	$(EXPERIMENT) ap_errors --seeds 8 --steps 100 --scenes 400 --out chapters/results/ap_errors.json
	$(EXPERIMENT) losses_imbalance --seeds 5 --steps 200 --out chapters/results/losses_imbalance.json
	$(EXPERIMENT) yolact_prototypes --seeds 5 --steps 300 --scenes 1000 --out chapters/results/yolact_prototypes.json
	$(EXPERIMENT) dynamic_coordinates --seeds 5 --steps 480 --scenes 1000 --out chapters/results/dynamic_coordinates.json
	$(EXPERIMENT) grid_collisions --seeds 1 --steps 1000 --scenes 500 $(if $(NUCLEI),--root $(NUCLEI)) \
		--out chapters/results/grid_collisions.json
	$(EXPERIMENT) instance_systems --seeds 1 --steps 1000 --scenes 200 --out chapters/results/instance_systems.json
	$(EXPERIMENT) pq_void_rules --seeds 1 --steps 1000 --scenes 200 --out chapters/results/pq_void_rules.json
	$(EXPERIMENT) panoptic_interference --seeds 5 --steps 800 --out chapters/results/panoptic_interference.json
	$(EXPERIMENT) panoptic_merge_rules --seeds 1 --steps 1000 --scenes 200 --out chapters/results/panoptic_merge_rules.json
	$(EXPERIMENT) masked_attention --seeds 5 --steps 800 --out chapters/results/masked_attention.json
	$(EXPERIMENT) mask_classification --seeds 5 --steps 400 --out chapters/results/mask_classification.json
	$(EXPERIMENT) set_prediction --seeds 5 --steps 400 --scenes 1000 --out chapters/results/set_prediction.json
	$(EXPERIMENT) query_tasks --seeds 1 --steps 1000 --scenes 200 --out chapters/results/query_tasks.json
	$(EXPERIMENT) volume_dims --seeds 5 --steps 600 --scenes 200 --out chapters/results/volume_dims.json
	$(EXPERIMENT) volume_sampling --seeds 5 --steps 800 --scenes 200 --out chapters/results/volume_sampling.json
	$(EXPERIMENT) volume_sparse --seeds 5 --steps 500 --scenes 100 --out chapters/results/volume_sparse.json
	$(EXPERIMENT) nnunet_ingredients --seeds 5 --steps 350 --scenes 16 --out chapters/results/nnunet_ingredients.json
	$(EXPERIMENT) nnunet_folds --seeds 1 --steps 400 --scenes 40 --out chapters/results/nnunet_folds.json
	$(EXPERIMENT) sam_ambiguity --seeds 5 --steps 200 --scenes 1000 --out chapters/results/sam_ambiguity.json
	$(EXPERIMENT) sam_unseen --seeds 1 --steps 2000 --scenes 1000 --out chapters/results/sam_unseen.json
	$(EXPERIMENT) sam_decoder --seeds 5 --steps 80 --scenes 8 --out chapters/results/sam_decoder.json
	$(EXPERIMENT) sam_clicks --seeds 1 --steps 1000 --scenes 80 --out chapters/results/sam_clicks.json
	$(EXPERIMENT) sam_limits --seeds 1 --steps 1000 --scenes 100 --out chapters/results/sam_limits.json
	OMP_NUM_THREADS=1 $(EXPERIMENT) scoreboard --seeds 1 --steps 500 --scenes 200 --out chapters/results/scoreboard.json  # on an idle machine
	OMP_NUM_THREADS=1 $(EXPERIMENT) explorer --seeds 1 --steps 3 --scenes 20 --out chapters/results/explorer.json
ifdef CAMVID
	$(call camvid,fcn)
	$(call camvid,unet)
	$(call camvid,deeplab)
ifdef PHOTOS
	$(BIN)/seglib predict $(PHOTOS)/truck.jpg --weights runs/camvid_fcn --out runs/truck.png
	$(BIN)/python -c "from PIL import Image; shown = Image.open('runs/truck.png').resize((900, 600)).quantize(128); \
		shown.save('chapters/results/camvid_fcn_truck.png', optimize=True)"
endif
endif
ifdef ISBI
	$(BIN)/seglib train unet_tiny --data isbi --root $(ISBI) --size 256x256 --steps 600 --batch-size 4 --lr 0.003 \
		--out runs/isbi_unet && \
		$(BIN)/python -m seglib.book.experiments.from_run runs/isbi_unet --root $(ISBI) \
			--out chapters/results/isbi_unet.json
endif
ifdef HIPPOCAMPUS
	$(BIN)/seglib train unet3d_tiny --data msd --root $(HIPPOCAMPUS) --steps 1000 --out runs/msd_hippocampus && \
		$(BIN)/python -m seglib.book.experiments.from_run runs/msd_hippocampus --root $(HIPPOCAMPUS) \
			--out chapters/results/msd_hippocampus.json
	$(BIN)/seglib plan --data msd --root $(HIPPOCAMPUS) --memory 0.12 --width 12 --out runs/hippocampus.json
	$(BIN)/seglib train nnunet --plan runs/hippocampus.json --data msd --root $(HIPPOCAMPUS) --fold 0 --steps 1000 \
		--lr 0.1 --momentum 0.9 --eval-every 0 --out runs/nnunet_hippocampus && \
		$(BIN)/python -m seglib.book.experiments.from_run runs/nnunet_hippocampus --root $(HIPPOCAMPUS) \
			--out chapters/results/nnunet_hippocampus.json
endif
ifdef COCO
	$(EXPERIMENT) pq_void_rules --seeds 1 --steps 1000 --root $(COCO) --out chapters/results/pq_void_rules_coco.json
	$(EXPERIMENT) sam_photo --root $(COCO) --seeds 1 --steps 1000 --scenes 50 --out chapters/results/sam_photo.json
endif
ifdef NUCLEI
	for name in mask_rcnn_tiny yolact_tiny condinst_tiny solov2_tiny; do model=$${name}_dsb2018; \
		$(MADE) || { $(BIN)/seglib train $$name --data dsb2018 --root $(NUCLEI) --batch-size 4 --steps 1500 --eval-every 500 \
			--encoder chapters/weights/fcn_tiny.safetensors --out runs/$$model && $(STORE) --root $(NUCLEI); } || exit 1; \
	done
	$(EXPERIMENT) instance_systems --root $(NUCLEI) --seeds 1 --steps 1000 --out chapters/results/dsb2018_systems.json
endif

serve: book  ## build the book and show it
	$(BIN)/python -m http.server --directory _build/html $(PORT)

bench: $(VENV)/.ready  ## the benchmarks, one after the other
	for file in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$file || exit 1; done

.PHONY: gpu
gpu: $(VENV)/.ready  ## on a GPU: its tests, training steps of all models, the benchmarks, in 8 minutes
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
