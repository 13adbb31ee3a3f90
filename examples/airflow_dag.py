"""A nightly rescan under Airflow, with the official Beam provider, on Dataflow.

    pip install apache-airflow-providers-apache-beam[google] 'mdmf-ops[gcp]'

Put this file into the folder of DAGs and set the Airflow variables mdmf_project, mdmf_region, mdmf_bucket, mdmf_photos
and mdmf_image. docs/dataflow.md says how the image is built and which roles the worker's account needs. On the Airflow
worker itself, without Dataflow: runner="DirectRunner", and no dataflow_config.
"""

import datetime

from airflow import DAG
from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.standard.operators.bash import BashOperator

OUTPUT = "gs://{{ var.value.mdmf_bucket }}/scores"
# A try replaces what the one before it left; to start the DAG by hand on the same day is another run.
RUN_ID = "nightly-{{ ts_nodash }}"

PIPELINE_OPTIONS = {
    "input": ["gs://{{ var.value.mdmf_photos }}"],
    "output": OUTPUT,
    "run_id": RUN_ID,
    "skip_unchanged": OUTPUT,
    "max_failed_fraction": 0.05,
    "sdk_container_image": "{{ var.value.mdmf_image }}",
    "sdk_location": "container",
    "temp_location": "gs://{{ var.value.mdmf_bucket }}/tmp",
    "staging_location": "gs://{{ var.value.mdmf_bucket }}/staging",
    "service_account_email": "mdmf-worker@{{ var.value.mdmf_project }}.iam.gserviceaccount.com",
    "machine_type": "n2-standard-4",
    "max_num_workers": 20,
    "no_use_public_ips": True,
    "experiments": ["use_runner_v2"],
}

with DAG(
    dag_id="mdmf_nightly",
    schedule="0 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=15)},
) as dag:
    rescan = BeamRunPythonPipelineOperator(
        task_id="rescan",
        py_options=["-m"],
        py_file="pipelines.rescan",
        runner="DataflowRunner",
        pipeline_options=PIPELINE_OPTIONS,
        dataflow_config={
            "job_name": "mdmf-nightly",
            "project_id": "{{ var.value.mdmf_project }}",
            "location": "{{ var.value.mdmf_region }}",
            "wait_until_finished": True,
        },
    )
    # The manifest is the proof: the job may end well and leave a run of which a file was lost since.
    verify = BashOperator(task_id="verify", bash_command=f"mdmf runs verify {OUTPUT} --run_id {RUN_ID}")
    rescan >> verify
