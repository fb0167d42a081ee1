"""Accuracy of a model folder, undivided and divided over emulated boards, by the runtime that real boards use."""
