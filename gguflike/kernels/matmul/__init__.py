"""Matrix products on quantized blocks and on floats: repacked weights, activations in int8 or float32."""
