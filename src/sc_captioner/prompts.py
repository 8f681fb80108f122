"""The two things a captioner is told; every entry point lets a user say something else."""

# Both as in the released system, so that its models and ours can be compared.
CAPTION_PROMPT = "Describe this image in detail."
CORRECTION_INSTRUCTION = (
    "The previous response is not very good. Please review the objects, attributes and relations in the caption. "
    "Remove that not appear in the image and add missing ones in the previous caption. "
    "Directly output the final caption: "
)
