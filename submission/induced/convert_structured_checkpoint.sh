#!/bin/bash
# Step 4.1: the weights of the flattened network. Flattening copies them, so this is step 2 where that was left out.
exec "$(dirname "$0")/flatten_resnet.sh"
