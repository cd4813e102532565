"""Every slot name that the package reads or writes."""

from __future__ import annotations


class Key:
    """Slot names, grouped by the part of the AnnData that holds them."""

    class layers:
        counts = "counts"
        log2tpm = "log2tpm"
        detected = "detected"
        median = "median"
        spackle = "spackle"
        rate = "rate"
        hidden = "hidden"

    class obs:
        array_row = "array_row"
        array_col = "array_col"
        in_tissue = "in_tissue"
        keep = "spared_keep"
        split = "split"

    class var:
        keep = "spared_keep"
        selected = "spared_selected"
        expressed_fraction = "expressed_fraction"
        min_expressed_fraction = "min_expressed_fraction"
        moran_i = "moran_i"
        gene_length = "gene_length"
        gene_ids = "gene_ids"

    class obsm:
        spatial = "spatial"

    class uns:
        records = "spared_sc"
        patches = "patches"  # record of the patches that encoders and predictors read
        spatial = "spatial"
        regions = "spatialdata_attrs"  # spatialdata's own key for the link between a table and its regions

    # Columns that usually tell sections apart, most telling first: named in errors, never used silently.
    library_columns = (
        "library_id",
        "library",
        "section_id",
        "section",
        "slide_id",
        "slide",
        "sample_id",
        "sample",
        "batch",
    )
    splits = ("train", "val", "test")
    models = ("counts", "factor", "paper")  # completion methods that are no baselines

    # Names that are made from the name of a layer, of a result (`key_added`) or of a model.
    delta = "{}_delta".format  # layer of deviations from the train mean
    mean = "{}_mean".format  # column of `var` with the train mean that was subtracted
    rate = "{}_rate".format  # layer of expected counts, true zeros included
    sd = "{}_sd".format  # layer of standard deviations of filled entries
    denoised = "{}_denoised".format  # layer of expression per depth, true zeros included
    denoised_sd = "{}_denoised_sd".format  # layer of its standard deviations
    skill = "{}_skill".format  # column of `var`: deviance explained beyond depth and the gene's share
    skill_se = "{}_skill_se".format  # column of `var`: its standard error
    verdict = "{}_verdict".format  # column of `var`: which layer has been shown to be better than averages
    hidden = "{}_hidden".format  # layer with the values of hidden entries
    out_of_distribution = "{}_out_of_distribution".format  # column of `obs`: spots that look unlike the training data
    predicted = "predicted_{}".format  # table of predicted expression in `obsm`

    @classmethod
    def completed(cls, key: str) -> tuple[str, ...]:
        """Layers that a completion of that name may write."""
        return key, cls.denoised(key), cls.rate(key), cls.sd(key), cls.denoised_sd(key)
