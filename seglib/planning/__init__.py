"""nnU-Net's self-configuration as pure functions: from the facts of a data set to a plan, with reasons.

::

    dataset ─► fingerprint ─► target spacing ─► patch ◄──► topology ─► batch size ─► plan ─► nnUNetPlans.json
               (fingerprint)  (spacing)         (patch)   (topology)   (memory)     (plan)   (plans_json)

Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 2021, Methods and supplementary note 2; numbers are those of its version 2.
"""
